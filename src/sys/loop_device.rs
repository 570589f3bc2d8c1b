//! Loop devices: block devices that read from a file. For kernels whose EROFS reads block devices
//! only.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// A loop device that goes away when it is closed: by this, and by whatever has mounted it.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

// === impl LoopDevice ===

impl LoopDevice {
    /// Makes a free loop device read from `file`, and only read.
    ///
    /// # Errors
    /// What the system says; that there are no loop devices.
    pub fn attach(file: &File) -> io::Result<LoopDevice> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        for _ in 0..TRIES {
            let number = free(control.as_raw_fd())?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let open = File::open(&path)?;
            match configure(&open, file) {
                Ok(()) => return Ok(LoopDevice { path, _open: open }),
                // Somebody else has taken it since it was free.
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Its path below `/dev`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

mod ioctls {
    use super::Config;

    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, Config);
}

/// `struct loop_config` of the kernel.
#[repr(C)]
pub(crate) struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// `struct loop_info64` of the kernel.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

fn free(control: RawFd) -> io::Result<u32> {
    // SAFETY: this request takes no argument and writes no memory; the descriptor is open.
    let number = unsafe { ioctls::loop_ctl_get_free(control) }?;
    u32::try_from(number).map_err(io::Error::other)
}

fn configure(device: &File, file: &File) -> nix::Result<()> {
    let config = Config {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: BLOCK,
        info: Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: READ_ONLY | AUTOCLEAR,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the request reads one `struct loop_config`, which `Config` is field by field, and which
    // lives through the call; both descriptors are open.
    unsafe { ioctls::loop_configure(device.as_raw_fd(), &raw const config) }?;
    Ok(())
}

const CONTROL: &str = "/dev/loop-control";
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
/// Of the file systems that are mounted from it.
const BLOCK: u32 = 4096;
/// Devices that are tried; losing the race for one is rare.
const TRIES: u32 = 16;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn the_structures_are_the_kernel_s() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }

    #[test]
    fn a_device_reads_its_file_and_goes_when_it_is_closed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        let device = match LoopDevice::attach(&file) {
            Ok(device) => device,
            Err(error) => return println!("skipped: {CONTROL}: {error}"),
        };
        let mut read = Vec::new();
        File::open(device.path())
            .unwrap()
            .read_to_end(&mut read)
            .unwrap();
        assert_eq!(read, [7; 8192]);
        let name = device.path().file_name().unwrap().to_owned();
        let directory = Path::new("/sys/block").join(name);
        let read_only = std::fs::read_to_string(directory.join("ro")).unwrap();
        assert_eq!(read_only, "1\n");
        let backing = directory.join("loop/backing_file");
        assert!(backing.exists());
        drop(device);
        // It may have been taken by another since, but not with our file.
        let now = std::fs::read_to_string(backing).unwrap_or_default();
        assert!(!now.contains("deleted"), "{now}");
    }
}
