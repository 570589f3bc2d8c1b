use super::*;

/// Writes small archives for tests.
#[derive(Default)]
pub(in crate::index) struct Archive(Vec<u8>);

impl Archive {
    pub(in crate::index) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name.as_bytes(), b'0', b"", content)
    }

    /// An entry of any type; a long name gets a GNU extension header.
    pub(in crate::index) fn entry(
        mut self,
        name: &[u8],
        kind: u8,
        link: &[u8],
        content: &[u8],
    ) -> Self {
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

    pub(in crate::index) fn finish(mut self) -> Vec<u8> {
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

    for archive in [gnu, one, zero] {
        let tar = archive.file("after", b"!").finish();
        let all = read_all(&tar);
        assert_eq!(all[0].0.name, b"sparse");
        assert_eq!(all[0].0.size, 3000);
        assert_eq!(all[0].1, sparse_content());
        assert_eq!(all[1].1, b"!");
        let mut reader = TarReader::new(&tar[..]);
        let entry = reader.next().unwrap().unwrap();
        assert!(reader.is_sparse());
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
    for (what, tar) in [
        ("checksum", flipped),
        ("cut header", cut),
        ("cut file", in_file),
        ("record", record),
        ("type", kind),
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
