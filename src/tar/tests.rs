use super::*;

/// Writes small archives for tests.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name.as_bytes(), b'0', b"", content)
    }

    /// An entry of any type; a long name gets a GNU extension header.
    pub(crate) fn entry(mut self, name: &[u8], kind: u8, link: &[u8], content: &[u8]) -> Self {
        if name.len() > 100 {
            self = self.entry(b"././@LongLink", b'L', b"", &[name, b"\0"].concat());
        }
        let mut header = ::tar::Header::new_gnu();
        let short = name.len().min(100);
        header.as_mut_bytes()[..short].copy_from_slice(&name[..short]);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.as_mut_bytes()[156] = kind;
        header.set_mode(0o644);
        header.set_mtime(1);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.block(header.as_bytes(), content)
    }

    fn block(mut self, header: &[u8], content: &[u8]) -> Self {
        self.0.extend_from_slice(header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

fn read_all(tar: &[u8]) -> Vec<(TarEntry, Vec<u8>)> {
    let mut reader = TarReader::new(tar);
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        all.push((entry, content));
    }
    all
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let length = (1..4)
            .map(|digits| body + digits)
            .find(|length| length.to_string().len() + body == *length)
            .unwrap();
        content += &format!("{length} {key}={value}\n");
    }
    content.into_bytes()
}

#[test]
fn numbers() {
    for (field, wanted) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"     12 ", Some(0o12)),
        (b"\0\0\0\0", Some(0)),
        (b"\0 17\0\0", Some(0o17)),
        (b"   644 \0", Some(0o644)),
        (&[0xff; 12], Some(-1)),
        (b"777777777777777777777777", None),
        (b"\x80\0\0\0\0\0\x01\0", Some(256)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
        (b"12x\0", None),
        (b"9\0", None),
        (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
    ] {
        assert_eq!(header::number(field).ok(), wanted, "{field:?}");
    }
}

#[test]
fn pax_overrides() {
    let records = pax(&[
        ("path", "other/name"),
        ("uid", "4000000"),
        ("mtime", "-1.5"),
        ("atime", "5.000000001"),
        ("SCHILY.xattr.user.a", "v=1\n"),
        ("comment", "x"),
    ]);
    let tar = Archive::default()
        .entry(b"x", b'x', b"", &records)
        .file("short", b"abc")
        .file("next", b"")
        .finish();
    let all = read_all(&tar);
    let (entry, content) = &all[0];
    assert_eq!(entry.name, b"other/name");
    assert_eq!(entry.uid, 4_000_000);
    let half_before = TarTime {
        seconds: -2,
        nanos: 500_000_000,
    };
    assert_eq!(entry.mtime, half_before);
    assert_eq!(entry.atime.unwrap().nanos, 1);
    assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"v=1\n".to_vec())]);
    assert_eq!(content, b"abc");
    assert_eq!(all[1].0.name, b"next");
}

#[test]
fn long_names_and_raw_bytes() {
    let name = "d/".repeat(100) + "file";
    let tar = Archive::default()
        .file(&name, b"1")
        .file("b", b"2")
        .finish();
    let mut reader = TarReader::new(&tar[..]);
    assert_eq!(reader.next().unwrap().unwrap().name, name.as_bytes());
    assert_eq!(reader.raw(), &tar[..3 * BLOCK]);
    // What is not read is skipped.
    assert_eq!(reader.next().unwrap().unwrap().name, b"b");
    assert!(reader.next().unwrap().is_none());
    assert!(reader.next().unwrap().is_none());
}

/// One file of 3000 bytes with data at 1024..1536 and 2560..2570.
fn sparse_content() -> Vec<u8> {
    let mut content = vec![0; 3000];
    content[1024..1536].fill(b'a');
    content[2560..2570].fill(b'b');
    content
}

/// Stored runs of the present file.
fn runs(reader: &mut TarReader<&[u8]>) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut buffer = [0; 300];
    while let Some((offset, got)) = reader.read_stored(&mut buffer).unwrap() {
        match runs.last_mut() {
            Some((begin, run)) if *begin + run.len() as u64 == offset => {
                run.extend(&buffer[..got]);
            }
            _ => runs.push((offset, buffer[..got].to_vec())),
        }
    }
    runs
}

#[test]
fn sparse_files_are_expanded() {
    let stored = [&[b'a'; 512][..], &[b'b'; 10]].concat();
    let mut old = ::tar::Header::new_gnu();
    old.as_mut_bytes()[..6].copy_from_slice(b"sparse");
    old.as_mut_bytes()[156] = b'S';
    old.set_mode(0o600);
    old.set_size(522);
    for (at, number) in [(386, 1024), (398, 512), (410, 2560), (422, 10), (483, 3000)] {
        let text = format!("{number:011o}\0");
        old.as_mut_bytes()[at..at + 12].copy_from_slice(text.as_bytes());
    }
    old.set_cksum();
    let gnu = Archive::default().block(old.as_bytes(), &stored);

    let records = pax(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "sparse"),
        ("GNU.sparse.realsize", "3000"),
    ]);
    let mut map = b"2\n1024\n512\n2560\n10\n".to_vec();
    map.resize(BLOCK, 0);
    let one = Archive::default()
        .entry(b"x", b'x', b"", &records)
        .file("GNUSparseFile.0/sparse", &[&map[..], &stored].concat());

    let records = pax(&[
        ("GNU.sparse.size", "3000"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.name", "sparse"),
        ("GNU.sparse.map", "1024,512,2560,10"),
    ]);
    let zero = Archive::default()
        .entry(b"x", b'x', b"", &records)
        .file("GNUSparseFile.0/sparse", &stored);

    let mut records = pax(&[("GNU.sparse.size", "3000"), ("GNU.sparse.name", "sparse")]);
    for (offset, length) in [("1024", "512"), ("2560", "10")] {
        let run = [
            ("GNU.sparse.offset", offset),
            ("GNU.sparse.numbytes", length),
        ];
        records.extend(pax(&run));
    }
    let oldest = Archive::default()
        .entry(b"x", b'x', b"", &records)
        .file("GNUSparseFile.0/sparse", &stored);

    for archive in [gnu, one, zero, oldest] {
        let tar = archive.file("after", b"!").finish();
        let all = read_all(&tar);
        assert_eq!(all[0].0.name, b"sparse");
        assert_eq!(all[0].0.size, 3000);
        assert_eq!(all[0].1, sparse_content());
        assert_eq!(all[1].1, b"!");
        let mut reader = TarReader::new(&tar[..]);
        reader.next().unwrap();
        assert!(reader.is_sparse());
        assert_eq!(
            runs(&mut reader),
            [(1024, vec![b'a'; 512]), (2560, vec![b'b'; 10])]
        );
        assert_eq!(reader.next().unwrap().unwrap().name, b"after");
        // Whoever skips the file does not wait for its holes.
        let mut reader = TarReader::new(&tar[..]);
        let entry = reader.next().unwrap().unwrap();
        let mut first = [1; 100];
        assert_eq!(reader.read(&mut first).unwrap(), 100);
        assert_eq!(first, [0; 100]);
        assert_eq!(reader.next().unwrap().unwrap().name, b"after");
        // Stored whole, it is the same file.
        let plain = Archive::default()
            .block(&plain_header(&entry).unwrap(), b"")
            .block(&sparse_content(), b"")
            .finish();
        assert_eq!(read_all(&plain)[0].1, sparse_content());
        assert_eq!(read_all(&plain)[0].0.mode, entry.mode);
        assert_eq!(read_all(&plain)[0].0.mtime, entry.mtime);
    }
}

#[test]
fn refuses_what_is_malformed() {
    let good = Archive::default().file("a", b"0123456789").finish();
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    let cut = good[..600 - 100].to_vec();
    let in_file = good[..BLOCK + 5].to_vec();
    let record = Archive::default()
        .entry(b"x", b'x', b"", b"99 a=b\n")
        .file("a", b"")
        .finish();
    let kind = Archive::default().entry(b"v", b'V', b"", b"").finish();
    let extension = Archive::default().entry(b"x", b'x', b"", &vec![0; 2 << 20]);
    let mut many = Archive::default();
    for _ in 0..20 {
        many = many.entry(b"l", b'L', b"", b"name\0");
    }
    let mut zeros = Archive::default().file("a", b"");
    zeros.0.resize(zeros.0.len() + BLOCK, 0);
    let zeros = zeros.file("b", b"");
    let mut huge = ::tar::Header::new_gnu();
    huge.set_size(u64::MAX >> 1);
    huge.set_cksum();
    for (what, tar) in [
        ("checksum", flipped),
        ("cut header", cut),
        ("cut file", in_file),
        ("record", record),
        ("type", kind),
        ("extension", extension.finish()),
        ("many extensions", many.file("a", b"").finish()),
        ("zeros", zeros.finish()),
        ("huge", huge.as_bytes().to_vec()),
    ] {
        let mut reader = TarReader::new(&tar[..]);
        let failed = loop {
            match reader.next() {
                Ok(None) => break false,
                Ok(Some(_)) => {}
                Err(_) => break true,
            }
        };
        assert!(failed, "{what}");
    }
}

#[test]
fn sparse_maps_must_fit() {
    for (map, size, good) in [
        ("1,1,4,2", "9", true),
        ("4,2,1,1", "9", false),
        ("1,1,4,2", "5", false),
        ("1,1,4,3", "9", false),
        ("1,1,4", "9", false),
        ("1,1,4,x", "9", false),
        ("18446744073709551615,3", "9", false),
        ("0,3", "9223372036854775808", false),
        ("0,3", "9223372036854775807", true),
    ] {
        let records = pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)]);
        let tar = Archive::default()
            .entry(b"x", b'x', b"", &records)
            .file("a", b"abc")
            .finish();
        let mut reader = TarReader::new(&tar[..]);
        let read = reader.next().and_then(|_| reader.next());
        assert_eq!(read.is_ok(), good, "{map} {size}");
    }
    let lonely = pax(&[("GNU.sparse.offset", "1"), ("GNU.sparse.size", "9")]);
    let turned = pax(&[
        ("GNU.sparse.numbytes", "3"),
        ("GNU.sparse.offset", "1"),
        ("GNU.sparse.size", "9"),
    ]);
    for records in [lonely, turned] {
        let tar = Archive::default()
            .entry(b"x", b'x', b"", &records)
            .file("a", b"abc")
            .finish();
        assert!(TarReader::new(&tar[..]).next().is_err());
    }
}

#[test]
fn headers_of_other_archivers() {
    let mut star = ::tar::Header::new_ustar();
    star.as_mut_bytes()[..4].copy_from_slice(b"name");
    star.as_mut_bytes()[345..350].copy_from_slice(b"first");
    star.as_mut_bytes()[476..488].copy_from_slice(b"00000000007\0");
    star.as_mut_bytes()[508..].copy_from_slice(b"tar\0");
    star.set_size(0);
    star.set_cksum();
    // Nothing in it but what the oldest archives had; the rest is not looked at.
    let mut old = ::tar::Header::new_old();
    old.as_mut_bytes()[..4].copy_from_slice(b"dir/");
    old.as_mut_bytes()[156] = 0;
    old.as_mut_bytes()[329..337].fill(b'?');
    old.set_mode(0o100_755);
    old.set_size(0);
    old.set_cksum();
    let tar = [*star.as_bytes(), *old.as_bytes()].concat();
    let all = read_all(&tar);
    assert_eq!(all[0].0.name, b"first/name");
    assert_eq!(all[0].0.atime.unwrap().seconds, 7);
    assert_eq!(all[0].0.ctime, None);
    assert_eq!(all[1].0.kind, TarKind::Directory);
    assert_eq!(all[1].0.permissions(), 0o755);
    assert_eq!(all[1].0.device, (0, 0));
}
