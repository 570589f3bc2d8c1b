//! Makes OCI layouts without any tool: one that holds every odd entry, one of many small files.
//!
//! The tar writer is a plain one of its own, so that it shares no mistake with the code under test.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};

/// An image in an OCI layout directory.
#[derive(Clone, Debug)]
pub(crate) struct LayoutImage {
    /// The layout.
    pub(crate) layout: PathBuf,
    /// Tag of the image in it.
    pub(crate) tag: String,
}

/// A regular file of 9 MiB: more than one chunk in every format.
pub(crate) const BIG_FILE: usize = 9 << 20;

// === impl LayoutImage ===

impl LayoutImage {
    /// `oci:DIRECTORY:TAG`.
    pub(crate) fn reference(&self) -> String {
        format!("oci:{}:{}", self.layout.display(), self.tag)
    }
}

/// Three gzip layers that hold every kind of entry and of change between layers: whiteouts, opaque
/// directories, hard links inside a layer and across, device nodes, attributes, sparse files, odd
/// names, odd times, odd owners. The second layer's blob is of several gzip members.
pub(crate) fn odd_image(directory: &Path) -> LayoutImage {
    let layers = [odd_base(), odd_changes(), odd_top()];
    let blobs = [
        gzip(&layers[0], 1),
        gzip(&layers[1], 3),
        gzip(&layers[2], 1),
    ];
    write_layout(directory, &layers, &blobs)
}

/// One layer of `count` files of about a kibibyte, 100 to a directory.
pub(crate) fn small_files_image(directory: &Path, count: usize) -> LayoutImage {
    let mut tar = Tar::default();
    tar.add(dir("./"));
    tar.add(dir("files"));
    let mut noise = Noise(1);
    for index in 0..count {
        if index % 10_000 == 0 {
            tar.add(dir(&format!("files/{:02}/", index / 10_000)));
        }
        let parent = format!("files/{:02}/{:02}/", index / 10_000, index / 100 % 100);
        if index % 100 == 0 {
            tar.add(dir(&parent));
        }
        let size = 200 + usize::try_from(noise.next() % 1800).unwrap();
        let mut content = format!("file {index}\n").into_bytes();
        content.resize(size, b'a' + u8::try_from(index % 26).unwrap());
        tar.add(file(&format!("{parent}{index:05}"), content));
    }
    let layer = tar.end();
    let blob = gzip(&layer, 1);
    write_layout(directory, &[layer], &[blob])
}

fn odd_base() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.add(dir("./").mode(0o755).time(1_600_000_000, 123_456_789));
    for name in [
        "etc",
        "usr",
        "usr/bin",
        "dev",
        "replaced-dir",
        "names",
        "links",
    ] {
        tar.add(dir(name));
    }
    tar.add(file(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\n".to_vec(),
    ));
    tar.add(file("etc/group", b"root:x:0:\n".to_vec()));
    tar.add(symlink("bin", "usr/bin"));
    // Through the link that this layer made.
    tar.add(file("bin/through-link", b"seen in usr/bin".to_vec()));

    tar.add(file("usr/bin/set-user", b"suid".to_vec()).mode(0o4755));
    tar.add(
        file("usr/bin/set-group", b"sgid".to_vec())
            .mode(0o2755)
            .owner(7, 8),
    );
    tar.add(dir("tmp").mode(0o1777));
    tar.add(dir("set-group-dir").mode(0o2775).owner(0, 50));
    tar.add(file("set-group-dir/child", b"x".to_vec()));
    tar.add(file("no-permissions", b"secret".to_vec()).mode(0));
    tar.add(
        file("usr/bin/capable", b"cap_net_raw".to_vec())
            .owner(70_000, 80_000)
            .mode(0o755)
            .xattr("security.capability", &CAP_NET_RAW),
    );
    tar.add(
        file("attributes", b"x".to_vec())
            .xattr("user.note", b"text")
            .xattr("user.bytes", b"\x00\n=\xff 12 a=b\n")
            .xattr("trusted.of-nacre", b"t"),
    );
    tar.add(
        dir("attributes-dir")
            .xattr("user.lower", b"1")
            .xattr("user.both", b"lower"),
    );
    tar.add(symlink("attributes-link", "attributes").xattr("trusted.on-link", b"l"));

    tar.add(device("dev/null", b'3', 1, 3).mode(0o666));
    tar.add(device("dev/far", b'3', 200, 70_000).mode(0o600).owner(5, 6));
    tar.add(device("dev/loop", b'4', 7, 300).mode(0o660));
    tar.add(device("dev/pipe", b'6', 0, 0).mode(0o640));

    tar.add(file("empty", Vec::new()));
    tar.add(file("one", b"1".to_vec()));
    tar.add(file("block", vec![b'b'; 4096]));
    tar.add(file("big", Noise(7).bytes(BIG_FILE)));
    tar.add(file("zeros", vec![0; 3 << 20]));
    tar.add(sparse_pax(
        "sparse-pax",
        6 << 20,
        &[(1 << 20, b"a"), (3 << 20, b"bc")],
    ));
    tar.add(sparse_pax("all-hole", 1 << 20, &[]));

    tar.add(file("old", b"before 1970".to_vec()).time(-86_401, 250_000_000));
    tar.add(file("nanos", b"x".to_vec()).time(1_700_000_000, 999_999_999));
    tar.add(file("future", b"after 2038".to_vec()).time(5_000_000_000, 1));
    tar.add(dir("old-dir").time(-1, 500_000_000));
    tar.add(symlink("old-link", "nowhere/at/all").time(-1000, 1));
    tar.add(file("rich", b"owner over 21 bits".to_vec()).owner(4_000_000, 3_000_000_000));

    for name in [
        &b"names/\xff\xfe not utf-8 \x80"[..],
        b"names/new\nline",
        b"names/ space ",
        b"names/back\\slash",
        b"names/.whale",
        "names/\u{fc}n\u{ef}c\u{f6}de".as_bytes(),
        &[b"names/", &[b'n'; 255][..]].concat(),
        &[b"names/", &[0xe9; 255][..]].concat(),
    ] {
        tar.add(file_at(name, b"named oddly".to_vec()));
    }
    tar.add(symlink_at(b"names/link", b"\xff\xfe/odd target"));
    tar.add(symlink_at(b"names/long-link", &b"long/".repeat(60)));
    let mut deep = String::new();
    for depth in 0..60 {
        deep.push_str(&format!("deep-directory-{depth:02}/"));
        tar.add(dir(&deep));
    }
    tar.add(file(&format!("{deep}bottom"), b"deep".to_vec()));

    tar.add(
        file("links/a", b"three names".to_vec())
            .owner(1, 2)
            .mode(0o640),
    );
    tar.add(hard_link("links/b", "links/a"));
    tar.add(hard_link("linked-c", "links/b"));
    tar.add(file("lower-file", b"linked from above".to_vec()).mode(0o600));
    tar.add(file("links/pair-1", b"pair".to_vec()));
    tar.add(hard_link("links/pair-2", "links/pair-1"));

    tar.add(file("replaced-dir/inside", b"x".to_vec()));
    tar.add(dir("replaced-dir/sub"));
    tar.add(file("replaced-file", b"a file below".to_vec()));
    tar.add(symlink("replaced-link", "usr"));
    tar.add(file("gone-file", b"x".to_vec()));
    tar.add(dir("gone-dir"));
    tar.add(file("gone-dir/x", b"x".to_vec()));
    tar.add(dir("opaque").mode(0o700).time(1, 0));
    tar.add(file("opaque/lower", b"x".to_vec()));
    tar.add(dir("opaque/lower-dir"));
    tar.add(file("opaque/lower-dir/x", b"x".to_vec()));
    tar.add(file("back", b"removed above, back on top".to_vec()));
    tar.add(file("twice", b"first".to_vec()));
    tar.add(file("twice", b"second wins".to_vec()).mode(0o600));
    tar.end()
}

fn odd_changes() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.add(dir("./").mode(0o755).time(1_650_000_000, 1));
    tar.add(file(".wh.gone-file", Vec::new()));
    tar.add(file(".wh.gone-dir", Vec::new()));
    tar.add(file(".wh.back", Vec::new()));
    tar.add(file(".wh.never-there", Vec::new()));
    // Opaque, told after an entry that it must spare.
    tar.add(dir("opaque").mode(0o755).time(2, 5));
    tar.add(file("opaque/upper", b"spared".to_vec()));
    tar.add(file("opaque/.wh..wh..opq", Vec::new()));
    tar.add(dir("opaque/lower-dir").mode(0o711));
    tar.add(file(
        "opaque/lower-dir/new",
        b"in a directory of the same name".to_vec(),
    ));
    tar.add(file("replaced-dir", b"a file now".to_vec()));
    tar.add(dir("replaced-file").mode(0o750));
    tar.add(file(
        "replaced-file/inside",
        b"below what was a file".to_vec(),
    ));
    tar.add(dir("replaced-link"));
    tar.add(file("replaced-link/inside", b"not in usr".to_vec()));
    // Attributes of a directory told again are the new ones alone.
    tar.add(
        dir("attributes-dir")
            .mode(0o700)
            .xattr("user.both", b"upper"),
    );
    tar.add(dir("links"));
    tar.add(hard_link("links/from-above", "lower-file"));
    tar.add(file("links/.wh.pair-1", Vec::new()));
    tar.add(file("usr/bin/added", b"x".to_vec()).mode(0o755));
    // Removed and made again in one layer.
    tar.add(file(".wh.one", Vec::new()));
    tar.add(file("one", b"another one".to_vec()));
    tar.add(file("nanos", b"changed".to_vec()).time(1_700_000_001, 1));
    tar.end()
}

fn odd_top() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.add(dir("opaque").mode(0o755).time(3, 7));
    tar.add(file("opaque/.wh.upper", Vec::new()));
    tar.add(file("opaque/top", b"top".to_vec()));
    tar.add(file("back", b"again".to_vec()));
    tar.add(dir("gone-dir").mode(0o705));
    tar.add(file("gone-dir/new", b"nothing of the old one".to_vec()));
    tar.add(file("links/a", b"no longer linked to b".to_vec()));
    tar.add(device("dev/pipe", b'3', 1, 5).mode(0o666));
    tar.end()
}

/// `cap_net_raw+ep`, revision 2.
const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

// ---- tar ----

/// A member to be written.
struct Member {
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    owner: (u64, u64),
    time: (i64, u32),
    link: Vec<u8>,
    device: (u32, u32),
    content: Vec<u8>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

fn member(name: &[u8], kind: u8) -> Member {
    Member {
        name: name.to_vec(),
        kind,
        mode: 0o644,
        owner: (0, 0),
        time: (1_600_000_000, 0),
        link: Vec::new(),
        device: (0, 0),
        content: Vec::new(),
        records: Vec::new(),
    }
}

fn dir(name: &str) -> Member {
    let name = format!("{}/", name.trim_end_matches('/'));
    member(name.as_bytes(), b'5').mode(0o755)
}

fn file(name: &str, content: Vec<u8>) -> Member {
    file_at(name.as_bytes(), content)
}

fn file_at(name: &[u8], content: Vec<u8>) -> Member {
    Member {
        content,
        ..member(name, b'0')
    }
}

fn symlink(name: &str, target: &str) -> Member {
    symlink_at(name.as_bytes(), target.as_bytes())
}

fn symlink_at(name: &[u8], target: &[u8]) -> Member {
    Member {
        link: target.to_vec(),
        ..member(name, b'2').mode(0o777)
    }
}

fn hard_link(name: &str, target: &str) -> Member {
    Member {
        link: target.as_bytes().to_vec(),
        ..member(name.as_bytes(), b'1')
    }
}

fn device(name: &str, kind: u8, major: u32, minor: u32) -> Member {
    Member {
        device: (major, minor),
        ..member(name.as_bytes(), kind)
    }
}

/// PAX sparse 1.0: the runs in decimal before the data.
fn sparse_pax(name: &str, size: u64, runs: &[(u64, &[u8])]) -> Member {
    let mut map = format!("{}\n", runs.len() + 1);
    let mut data = Vec::new();
    for (offset, bytes) in runs {
        map.push_str(&format!("{offset}\n{}\n", bytes.len()));
        data.extend_from_slice(bytes);
    }
    map.push_str(&format!("{size}\n0\n"));
    let mut content = map.into_bytes();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend(data);
    let record = |key: &str, value: String| (key.as_bytes().to_vec(), value.into_bytes());
    Member {
        content,
        records: vec![
            record("GNU.sparse.major", "1".into()),
            record("GNU.sparse.minor", "0".into()),
            record("GNU.sparse.name", name.into()),
            record("GNU.sparse.realsize", size.to_string()),
        ],
        ..member(format!("GNUSparseFile.0/{name}").as_bytes(), b'0')
    }
}

impl Member {
    fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    fn owner(self, uid: u64, gid: u64) -> Self {
        Self {
            owner: (uid, gid),
            ..self
        }
    }

    fn time(self, seconds: i64, nanos: u32) -> Self {
        Self {
            time: (seconds, nanos),
            ..self
        }
    }

    fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        let key = format!("SCHILY.xattr.{name}").into_bytes();
        self.records.push((key, value.to_vec()));
        self
    }
}

/// An archive being written.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    /// Writes a member, behind a PAX header for what the plain one cannot hold.
    fn add(&mut self, member: Member) {
        let mut records = member.records;
        let mut told = |key: &str, value: &[u8]| records.push((key.into(), value.to_vec()));
        let (seconds, nanos) = member.time;
        if nanos != 0 || !(0..1 << 33).contains(&seconds) {
            // -1.5 seconds are kept as -2 and half a second.
            let text = match (seconds < 0, nanos) {
                (true, 1..) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
                _ => format!("{seconds}.{nanos:09}"),
            };
            told("mtime", text.as_bytes());
        }
        if member.name.len() > 100 {
            told("path", &member.name);
        }
        if member.link.len() > 100 {
            told("linkpath", &member.link);
        }
        for (key, id) in [("uid", member.owner.0), ("gid", member.owner.1)] {
            if id >= 1 << 21 {
                told(key, id.to_string().as_bytes());
            }
        }
        if !records.is_empty() {
            let body: Vec<u8> = records.iter().flat_map(|(k, v)| pax_record(k, v)).collect();
            let mut header = header(b"PaxHeaders/x", b'x', body.len());
            self.put(&mut header, &body);
        }
        let mut header = header(&member.name, member.kind, member.content.len());
        let small = |id: u64| if id < 1 << 21 { id } else { 0 };
        header[100..108].copy_from_slice(&octal(member.mode.into(), 8));
        header[108..116].copy_from_slice(&octal(small(member.owner.0), 8));
        header[116..124].copy_from_slice(&octal(small(member.owner.1), 8));
        header[136..148].copy_from_slice(&octal(u64::try_from(seconds).unwrap_or(0), 12));
        let link = &member.link[..member.link.len().min(100)];
        header[157..157 + link.len()].copy_from_slice(link);
        header[329..337].copy_from_slice(&octal(member.device.0.into(), 8));
        header[337..345].copy_from_slice(&octal(member.device.1.into(), 8));
        self.put(&mut header, &member.content);
    }

    fn put(&mut self, header: &mut [u8; 512], content: &[u8]) {
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|&b| u64::from(b)).sum();
        header[148..156].copy_from_slice(&octal(sum, 8));
        self.0.extend_from_slice(header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn header(name: &[u8], kind: u8, size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let name = &name[..name.len().min(100)];
    header[..name.len()].copy_from_slice(name);
    header[100..108].copy_from_slice(&octal(0o644, 8));
    header[108..116].copy_from_slice(&octal(0, 8));
    header[116..124].copy_from_slice(&octal(0, 8));
    header[124..136].copy_from_slice(&octal(size as u64, 12));
    header[136..148].copy_from_slice(&octal(0, 12));
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header
}

/// Octal digits and a zero byte, `width` in all.
fn octal(value: u64, width: usize) -> Vec<u8> {
    let text = format!("{value:0digits$o}\0", digits = width - 1);
    assert_eq!(text.len(), width, "{value} in {width}");
    text.into_bytes()
}

fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

// ---- layout ----

pub(crate) fn write_layout(directory: &Path, tars: &[Vec<u8>], blobs: &[Vec<u8>]) -> LayoutImage {
    let blob_directory = directory.join("blobs/sha256");
    fs::create_dir_all(&blob_directory).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = sha256(bytes);
        fs::write(blob_directory.join(&digest), bytes).unwrap();
        let size = bytes.len();
        format!(r#""mediaType":"{media_type}","digest":"sha256:{digest}","size":{size}"#)
    };
    let diff_ids: Vec<_> = tars
        .iter()
        .map(|tar| format!(r#""sha256:{}""#, sha256(tar)))
        .collect();
    let config = format!(
        r#"{{"created":"2020-09-13T12:26:40Z","architecture":"{}","os":"linux","config":{{"Cmd":["/bin/sh"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        diff_ids.join(",")
    );
    let config = put(
        "application/vnd.oci.image.config.v1+json",
        config.as_bytes(),
    );
    let layers: Vec<_> = blobs
        .iter()
        .map(|blob| put("application/vnd.oci.image.layer.v1.tar+gzip", blob))
        .map(|descriptor| format!("{{{descriptor}}}"))
        .collect();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{manifest_type}","config":{{{config}}},"layers":[{}]}}"#,
        layers.join(",")
    );
    let manifest = put(manifest_type, manifest.as_bytes());
    let tag = "latest";
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{{manifest},"annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}]}}"#
    );
    fs::write(directory.join("index.json"), index).unwrap();
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    LayoutImage {
        layout: directory.to_owned(),
        tag: tag.into(),
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// gzip of `members` members.
pub(crate) fn gzip(bytes: &[u8], members: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in bytes.chunks(bytes.len().div_ceil(members)) {
        let mut encoder = GzEncoder::new(&mut out, Compression::new(6));
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    out
}

/// Bytes that do not compress, the same every time (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
