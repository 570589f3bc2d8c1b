use super::*;

/// Layers by path, and the names that are left.
#[test]
fn names_that_are_left() {
    type Case = (&'static str, Vec<Vec<Entry>>, &'static [&'static str]);
    let cases: &[Case] = &[
        ("nothing", vec![], &[]),
        (
            "implied parents",
            vec![vec![file("a/b/c", 1)]],
            &["a", "a/b", "a/b/c"],
        ),
        (
            "whiteout of a file",
            vec![vec![file("a", 1), file("b", 1)], vec![file(".wh.a", 0)]],
            &["b"],
        ),
        (
            "whiteout of a directory takes what is below",
            vec![vec![file("d/e/f", 1), file("g", 1)], vec![file(".wh.d", 0)]],
            &["g"],
        ),
        (
            "whiteout before an entry of its own layer",
            vec![
                vec![file("d/old", 1)],
                vec![file(".wh.d", 0), file("d/new", 1)],
            ],
            &["d", "d/new"],
        ),
        (
            "whiteout after an entry of its own layer",
            vec![
                vec![file("d/old", 1)],
                vec![file("d/new", 1), file(".wh.d", 0)],
            ],
            &["d", "d/new"],
        ),
        (
            "whiteout of what this layer has added leaves it",
            vec![vec![], vec![file("a", 1), file(".wh.a", 0)]],
            &["a"],
        ),
        (
            "whiteout of what is not there",
            vec![
                vec![file("a", 1)],
                vec![file(".wh.b", 0), file("x/y/.wh.z", 0)],
            ],
            &["a"],
        ),
        (
            "opaque before entries",
            vec![
                vec![file("d/old", 1), file("d/e/old", 1)],
                vec![file("d/.wh..wh..opq", 0), file("d/e/new", 1)],
            ],
            &["d", "d/e", "d/e/new"],
        ),
        (
            "opaque after entries",
            vec![
                vec![file("d/old", 1), file("d/e/old", 1)],
                vec![file("d/e/new", 1), file("d/.wh..wh..opq", 0)],
            ],
            &["d", "d/e", "d/e/new"],
        ),
        (
            "opaque root",
            vec![
                vec![file("a", 1)],
                vec![file(".wh..wh..opq", 0), file("b", 1)],
            ],
            &["b"],
        ),
        (
            "other AUFS names do nothing",
            vec![
                vec![file("a", 1)],
                vec![file(".wh..wh.plnk", 0), file(".wh..wh.aufs", 0)],
            ],
            &["a"],
        ),
        (
            "directory over directory merges",
            vec![vec![file("d/a", 1)], vec![dir("d", 0o700), file("d/b", 1)]],
            &["d", "d/a", "d/b"],
        ),
        (
            "file over directory",
            vec![vec![file("d/a", 1)], vec![file("d", 1)]],
            &["d"],
        ),
        (
            "directory over file",
            vec![vec![file("d", 1)], vec![dir("d", 0o755), file("d/a", 1)]],
            &["d", "d/a"],
        ),
        (
            "directory over symlink replaces the symlink",
            vec![
                vec![file("t/a", 1), symlink("d", "t")],
                vec![dir("d", 0o755)],
            ],
            &["d", "t", "t/a"],
        ),
        (
            "parent through a symlink",
            vec![
                vec![dir("usr/bin", 0o755), symlink("bin", "usr/bin")],
                vec![file("bin/a", 1)],
            ],
            &["bin", "usr", "usr/bin", "usr/bin/a"],
        ),
        (
            "symlink out of the root stays inside",
            vec![vec![symlink("out", "../../../etc")], vec![file("out/a", 1)]],
            &["etc", "etc/a", "out"],
        ),
        (
            "absolute symlink is relative to the root",
            vec![vec![symlink("x/out", "/etc")], vec![file("x/out/a", 1)]],
            &["etc", "etc/a", "x", "x/out"],
        ),
        (
            "whiteout through a symlink",
            vec![
                vec![file("usr/bin/a", 1), symlink("bin", "usr/bin")],
                vec![file("bin/.wh.a", 0)],
            ],
            &["bin", "usr", "usr/bin"],
        ),
        (
            "whiteout of a symlink does not follow it",
            vec![
                vec![file("t/a", 1), symlink("d", "t")],
                vec![file(".wh.d", 0)],
            ],
            &["t", "t/a"],
        ),
        (
            "prefix of a name only in the last component",
            vec![vec![file(".wh.d/a", 1)]],
            &[".wh.d", ".wh.d/a"],
        ),
    ];
    for (what, layers, expected) in cases {
        let tree = Tree::merge(layers.clone()).unwrap();
        assert_eq!(names(&tree), *expected, "{what}");
    }
}

#[test]
fn refused_with_layer_and_entry() {
    let long = "x".repeat(300);
    let deep = vec!["d"; 2100].join("/");
    let target = "t".repeat(4096);
    let loops = vec![symlink("a", "b"), symlink("b", "a"), file("a/x", 1)];
    let mut nanos = file("n", 1);
    nanos.mtime_nanos = 1_000_000_000;
    let mut value = file("v", 1);
    value.xattrs = vec![(b"user.a"[..].into(), vec![0; 65537].into())];
    let mut key = file("k", 1);
    key.xattrs = vec![(vec![b'k'; 256].into(), b""[..].into())];
    let huge = EntryKind::CharDevice {
        major: 4096,
        minor: 0,
    };
    let cases: Vec<(&str, Vec<Entry>)> = vec![
        (
            "path component of 300 bytes is over 255",
            vec![file(&long, 1)],
        ),
        ("bytes is over 4096", vec![file(&deep, 1)]),
        ("not clean", vec![file("a//b", 1)]),
        ("not clean", vec![file("../b", 1)]),
        ("not clean", vec![file("/b", 1)]),
        ("zero byte", vec![file("a\0b", 1)]),
        ("whiteout without a name", vec![file("d/.wh.", 1)]),
        ("whiteout without a name", vec![file("d/.wh...", 1)]),
        ("\"missing\", which is missing", vec![link("l", "missing")]),
        (
            "\"d/x\", which is missing",
            vec![file("d", 1), link("l", "d/x")],
        ),
        (
            "\"l\", which is missing",
            vec![file("l", 1), link("l", "l")],
        ),
        (
            "\"d/f\", which is missing",
            vec![file("d/f", 1), link("d", "d/f")],
        ),
        ("\"d\", a directory", vec![dir("d", 0o755), link("l", "d")]),
        ("\"\", a directory", vec![link("l", "")]),
        (
            "parent \"f\" is not a directory",
            vec![file("f", 1), file("f/x", 1)],
        ),
        ("over 255 symlinks", loops),
        ("symlink without a target", vec![symlink("s", "")]),
        ("over 4095", vec![symlink("s", &target)]),
        ("root is not a directory", vec![file("", 1)]),
        ("nanoseconds", vec![nanos]),
        ("of 65537 bytes", vec![value]),
        ("attribute name of 256", vec![key]),
        ("out of range", vec![entry("c", huge)]),
    ];
    for (expected, layer) in cases {
        let path = layer.last().unwrap().path.clone();
        let shown = String::from_utf8_lossy(&path[..path.len().min(100)]).replace('\0', "\\x00");
        let error = Tree::merge(vec![vec![], layer]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let text = error.to_string();
        assert!(text.contains(expected), "{text} / {expected}");
        assert!(
            text.starts_with(&format!("layer 1 entry \"{shown}")),
            "{text}"
        );
    }
}

#[test]
fn directories_cannot_nest_through_symlinks_without_end() {
    let half = vec!["d"; 2000].join("/");
    let layer = vec![
        dir(&half, 0o755),
        symlink("s", &half),
        dir(&format!("s/{half}"), 0o755),
    ];
    let error = Tree::merge(vec![layer]).unwrap_err();
    assert!(error.to_string().contains("too deep"), "{error}");
}

#[test]
fn metadata_of_the_last_entry_counts() {
    let mut first = dir("d", 0o755);
    first.xattrs = vec![(b"user.a"[..].into(), b"1"[..].into())];
    let mut second = dir("d", 0o2711);
    second.uid = 7;
    second.gid = 8;
    second.mtime = -5;
    second.mtime_nanos = 999_999_999;
    second.xattrs = vec![
        (b"user.b"[..].into(), b"old"[..].into()),
        (b"user.b"[..].into(), b"new"[..].into()),
        (b"trusted.overlay.opaque"[..].into(), b"y"[..].into()),
        (
            b"security.capability"[..].into(),
            b"\x01\0\0\x02"[..].into(),
        ),
    ];
    let tree = Tree::merge(vec![vec![first, file("d/x", 3)], vec![second]]).unwrap();
    let found = at(&tree, "d");
    assert_eq!(
        found,
        Attributes {
            kind: Kind::Directory,
            mode: 0o2711,
            uid: 7,
            gid: 8,
            size: 4096,
            nlink: 2,
            mtime: -5,
            mtime_nanos: 999_999_999,
            rdev: 0,
        }
    );
    let ino = tree.resolve(b"d").unwrap();
    let xattrs: Vec<_> = tree.xattrs(ino).iter().collect();
    let expected: [(&[u8], &[u8]); 2] = [
        (b"security.capability", b"\x01\0\0\x02"),
        (b"user.b", b"new"),
    ];
    assert_eq!(xattrs, expected);
    assert_eq!(tree.xattr(ino, b"user.b"), Some(&b"new"[..]));
    assert_eq!(tree.xattr(ino, b"user.a"), None);
    assert_eq!(tree.xattr(Ino::ROOT, b"user.b"), None);
    assert!(tree.has_xattrs());
}

#[test]
fn the_root_and_implied_parents() {
    let tree = Tree::merge(vec![vec![file("a/b", 1)]]).unwrap();
    for path in ["", "a"] {
        let found = at(&tree, path);
        assert_eq!(
            (found.mode, found.uid, found.gid, found.mtime),
            (0o755, 0, 0, 0)
        );
    }
    assert_eq!(at(&tree, "").nlink, 3);
    assert!(!tree.has_xattrs());
    let tree = Tree::merge(vec![vec![dir("", 0o1777)]]).unwrap();
    assert_eq!(at(&tree, "/").mode, 0o1777);
    assert_eq!(tree.inode_count(), 1);
}

#[test]
fn hard_links_share_an_inode_while_a_name_is_left() {
    let lower = vec![file("d/a", 9), link("b", "d/a"), link("c", "b")];
    let tree = Tree::merge(vec![lower.clone()]).unwrap();
    assert_eq!(at(&tree, "b").nlink, 3);
    assert_eq!(tree.resolve(b"b"), tree.resolve(b"d/a"));
    assert_eq!(tree.inode_count(), 3);
    assert_eq!(tree.file_bytes(), 9);

    let tree = Tree::merge(vec![lower.clone(), vec![file(".wh.d", 0)]]).unwrap();
    assert_eq!(at(&tree, "b").nlink, 2);
    assert_eq!(at(&tree, "c").size, 9);

    let tree = Tree::merge(vec![lower, vec![file("b", 1), link("e", "b")]]).unwrap();
    assert_eq!((at(&tree, "b").nlink, at(&tree, "b").size), (2, 1));
    assert_eq!(at(&tree, "c").nlink, 2);
    assert_eq!(tree.file(tree.resolve(b"e").unwrap()).unwrap().layer, 1);
    assert_eq!(tree.file(tree.resolve(b"c").unwrap()).unwrap().layer, 0);
}

#[test]
fn a_hard_link_to_a_symlink_links_the_symlink() {
    let tree = Tree::merge(vec![vec![symlink("s", "nowhere"), link("t", "s")]]).unwrap();
    assert_eq!(
        tree.read_link(tree.resolve(b"t").unwrap()),
        Some(&b"nowhere"[..])
    );
    assert_eq!(at(&tree, "t").mode, 0o777);
    assert_eq!(at(&tree, "t").size, 7);
}

#[test]
fn files_keep_their_run_of_chunks() {
    let big = EntryKind::Regular {
        size: 5 << 32,
        chunks: 7..1234,
    };
    let empty = EntryKind::Regular {
        size: 0,
        chunks: 0..0,
    };
    let layers = vec![vec![], vec![entry("big", big), entry("empty", empty)]];
    let tree = Tree::merge(layers).unwrap();
    let data = |path: &str| tree.file(tree.resolve(path.as_bytes()).unwrap());
    let expected = FileData {
        layer: 1,
        first_chunk: 7,
        chunk_count: 1227,
        size: 5 << 32,
    };
    assert_eq!(data("big"), Some(expected));
    assert_eq!(data("empty").unwrap().chunk_count, 0);
    assert_eq!(tree.file(Ino::ROOT), None);
}

#[test]
fn device_numbers_are_in_the_kernel_s_encoding() {
    let null = EntryKind::CharDevice { major: 1, minor: 3 };
    let large = EntryKind::BlockDevice {
        major: 0xabc,
        minor: 0x1_2345,
    };
    let layer = vec![
        entry("c", null),
        entry("b", large),
        entry("p", EntryKind::Fifo),
    ];
    let tree = Tree::merge(vec![layer]).unwrap();
    assert_eq!(
        (at(&tree, "c").kind, at(&tree, "c").rdev),
        (Kind::CharDevice, 0x103)
    );
    assert_eq!(
        (at(&tree, "b").kind, at(&tree, "b").rdev),
        (Kind::BlockDevice, 0x123a_bc45)
    );
    assert_eq!((at(&tree, "p").kind, at(&tree, "p").rdev), (Kind::Fifo, 0));
}

#[test]
fn names_need_not_be_utf8_and_sort_by_byte() {
    let mut odd = file("x", 1);
    odd.path = b"d/\xff\xfe\n".as_slice().into();
    let long = "n".repeat(255);
    let layer = vec![
        odd,
        file("d/b", 1),
        file("d/a-", 1),
        file("d/a", 1),
        file(&long, 1),
    ];
    let tree = Tree::merge(vec![layer]).unwrap();
    let directory = tree.lookup(Ino::ROOT, b"d").unwrap();
    let found: Vec<_> = tree.children(directory).map(|child| child.name).collect();
    let expected: [&[u8]; 4] = [b"a", b"a-", b"b", b"\xff\xfe\n"];
    assert_eq!(found, expected);
    assert!(tree.lookup(directory, b"\xff\xfe\n").is_some());
    assert!(tree.lookup(Ino::ROOT, long.as_bytes()).is_some());
    assert_eq!(tree.lookup(directory, b"\xff"), None);
    let tail: Vec<_> = tree
        .children_from(directory, 2)
        .map(|it| (it.position, it.name))
        .collect();
    assert_eq!(tail, [(2, expected[2]), (3, expected[3])]);
    assert_eq!(tree.children_from(directory, 99).len(), 0);
}

#[test]
fn numbers_are_breadth_first_whatever_the_order_of_entries() {
    let mut layer = vec![
        file("b/x", 1),
        file("a/y", 1),
        file("c", 1),
        link("a/l", "c"),
    ];
    let numbers = |layer: Vec<Entry>| -> Vec<(String, u64)> {
        let tree = Tree::merge(vec![layer]).unwrap();
        let text = |path| String::from_utf8(path).unwrap();
        tree.walk()
            .map(|(path, ino)| (text(path), ino.number()))
            .collect()
    };
    let expected = [
        ("", 1),
        ("a", 2),
        ("a/l", 4),
        ("a/y", 5),
        ("b", 3),
        ("b/x", 6),
        ("c", 4),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(path, number)| ((*path).to_owned(), *number))
        .collect();
    assert_eq!(numbers(layer.clone()), expected);
    layer.swap(0, 1);
    assert_eq!(numbers(layer), expected);
}

/// What the kernel remembers of one daemon must mean the same to the next: if this fails because
/// other numbers are wanted, [`crate::tree::NUMBERING`] must change with them.
#[test]
fn merging_again_gives_the_same_numbers_and_places() {
    let layers = || {
        let many = (0..200).map(|n| file(&format!("d{}/f{n}", n % 7), 1));
        let links = (0..50).map(|n| link(&format!("l{n}"), &format!("d{}/f{n}", n % 7)));
        let other = vec![
            file("d3/.wh.f3", 0),
            file("d9/new", 1),
            link("d9/again", "d1/f1"),
            file("d5/.wh..wh..opq", 0),
            file("d5/only", 1),
        ];
        vec![many.chain(links).collect(), other]
    };
    let seen = |tree: &Tree| -> Vec<_> {
        let mut seen = Vec::new();
        for (path, ino) in tree.walk() {
            let places = match tree.attributes(ino).kind {
                Kind::Directory => tree
                    .children_from(ino, 0)
                    .map(|it| (it.position, it.ino.number(), it.name.to_vec()))
                    .collect(),
                _ => Vec::new(),
            };
            seen.push((path, ino.number(), places));
        }
        seen
    };
    let first = seen(&Tree::merge(layers()).unwrap());
    assert_eq!(first, seen(&Tree::merge(layers()).unwrap()));
    let digest = crate::oci::Digest::sha256(format!("{first:?}").as_bytes()).hex();
    assert_eq!(
        (crate::tree::NUMBERING, &digest[..16]),
        (1, "5d23a8bb1072dde8")
    );
}

#[test]
fn only_numbers_of_the_tree_become_inodes() {
    let tree = Tree::merge(vec![vec![file("a", 1)]]).unwrap();
    assert_eq!(tree.ino(0), None);
    assert_eq!(tree.ino(1), Some(Ino::ROOT));
    assert_eq!(tree.ino(2).map(Ino::number), Some(2));
    assert_eq!(tree.ino(3), None);
    assert_eq!(tree.ino(u64::MAX), None);
}

#[test]
fn paths_are_resolved_inside_the_root() {
    let layer = vec![
        file("usr/bin/tool", 1),
        symlink("bin", "/usr/bin"),
        symlink("usr/lib/up", "../../../../bin/tool"),
        symlink("loop", "loop"),
        symlink("dangling", "nowhere"),
    ];
    let tree = Tree::merge(vec![layer]).unwrap();
    let tool = tree.resolve(b"usr/bin/tool");
    assert!(tool.is_some());
    for path in [
        "/bin/tool",
        "bin/./tool",
        "bin/../../usr//bin/tool",
        "usr/lib/../bin/tool",
    ] {
        assert_eq!(tree.resolve(path.as_bytes()), tool, "{path}");
    }
    assert_eq!(tree.resolve_following(b"usr/lib/up"), tool);
    assert_ne!(tree.resolve(b"usr/lib/up"), tool);
    assert_eq!(tree.resolve_following(b"bin"), tree.resolve(b"usr/bin"));
    assert_eq!(tree.resolve(b"bin/"), tree.resolve(b"bin"));
    for path in ["loop", "dangling", "usr/nothing", "usr/bin/tool/x"] {
        assert_eq!(tree.resolve_following(path.as_bytes()), None, "{path}");
    }
    assert!(tree.resolve(b"loop").is_some());
    assert_eq!(tree.resolve(b""), Some(Ino::ROOT));
    assert_eq!(tree.path(tool.unwrap()), b"usr/bin/tool");
}

#[test]
fn an_inode_takes_under_130_bytes_beyond_its_name() {
    let mut layer = Vec::new();
    let mut bytes = 0;
    for number in 0..20_000 {
        let mut entry = file(&format!("dir{}/file{number}", number % 100), 1);
        entry.xattrs = vec![(b"user.same"[..].into(), b"value"[..].into())];
        bytes += entry.path.len() - entry.path.iter().position(|&b| b == b'/').unwrap() - 1;
        layer.push(entry);
    }
    let tree = Tree::merge(vec![layer]).unwrap();
    let each = (tree.heap_bytes() - bytes) / tree.inode_count();
    assert!(each < 70, "{each}");
    assert_eq!((size_of::<Inode>(), size_of::<Name>()), (56, 8));
}
