//! The same rules written the slow way: a map from whole paths to inodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

type Path = Vec<String>;

#[derive(Default)]
struct Model {
    names: BTreeMap<Path, usize>,
    inodes: Vec<(EntryKind, u16, u16)>,
    upper: BTreeSet<Path>,
    layer: u16,
}

#[derive(Debug)]
struct Refused;

impl Model {
    fn merge(layers: &[Vec<Entry>]) -> Result<Model, Refused> {
        let mut model = Model::default();
        model.insert(Vec::new(), EntryKind::Directory, 0o755);
        for (number, layer) in layers.iter().enumerate() {
            model.layer = u16::try_from(number).unwrap();
            model.upper.clear();
            for entry in layer {
                model.apply(entry)?;
            }
        }
        Ok(model)
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), Refused> {
        let text = std::str::from_utf8(&entry.path).unwrap();
        let (parent, name) = text.rsplit_once('/').unwrap_or(("", text));
        let parent = self.secure_join(parent)?;
        if let Some(hidden) = name.strip_prefix(".wh.") {
            if hidden == ".wh..opq" {
                self.hide(&parent, false);
            } else {
                let mut target = parent;
                target.push(hidden.to_owned());
                self.hide(&target, true);
            }
            return Ok(());
        }
        for length in 0..=parent.len() {
            let directory = parent[..length].to_vec();
            if !self.names.contains_key(&directory) {
                self.insert(directory.clone(), EntryKind::Directory, 0o755);
            }
            if self.kind(&directory) != Some(&EntryKind::Directory) {
                return Err(Refused);
            }
            self.upper.insert(directory);
        }
        let mut path = parent;
        path.push(name.to_owned());
        self.upper.insert(path.clone());
        let both =
            self.kind(&path) == Some(&EntryKind::Directory) && entry.kind == EntryKind::Directory;
        if both {
            let inode = self.names[&path];
            self.inodes[inode].1 = entry.mode;
            return Ok(());
        }
        self.names.retain(|it, _| !it.starts_with(&path));
        if let EntryKind::Hardlink(target) = &entry.kind {
            let target = std::str::from_utf8(target).unwrap();
            let (directory, name) = target.rsplit_once('/').unwrap_or(("", target));
            let mut target = self.secure_join(directory)?;
            target.push(name.to_owned());
            let inode = *self.names.get(&target).ok_or(Refused)?;
            if self.inodes[inode].0 == EntryKind::Directory {
                return Err(Refused);
            }
            self.names.insert(path, inode);
        } else {
            let symlink = matches!(entry.kind, EntryKind::Symlink(_));
            let mode = if symlink { 0o777 } else { entry.mode };
            self.insert(path, entry.kind.clone(), mode);
        }
        Ok(())
    }

    fn hide(&mut self, target: &[String], itself: bool) {
        let upper = &self.upper;
        self.names.retain(|path, _| {
            !path.starts_with(target) || upper.contains(path) || (!itself && path == target)
        });
    }

    fn secure_join(&self, path: &str) -> Result<Path, Refused> {
        let mut left: VecDeque<String> = path.split('/').map(str::to_owned).collect();
        let mut done = Vec::new();
        let mut hops = 0;
        while let Some(component) = left.pop_front() {
            match component.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(component),
            }
            if let Some(EntryKind::Symlink(target)) = self.kind(&done) {
                hops += 1;
                if hops > 255 {
                    return Err(Refused);
                }
                let target = std::str::from_utf8(target).unwrap();
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                for component in target.split('/').rev() {
                    left.push_front(component.to_owned());
                }
            }
        }
        Ok(done)
    }

    fn kind(&self, path: &[String]) -> Option<&EntryKind> {
        self.names.get(path).map(|&inode| &self.inodes[inode].0)
    }

    fn insert(&mut self, path: Path, kind: EntryKind, mode: u16) {
        self.inodes.push((kind, mode, self.layer));
        self.names.insert(path, self.inodes.len() - 1);
    }
}

fn compare(layers: Vec<Vec<Entry>>) {
    let model = Model::merge(&layers);
    let tree = Tree::merge(layers);
    let (model, tree) = match (model, tree) {
        (Ok(model), Ok(tree)) => (model, tree),
        (Err(Refused), Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            return;
        }
        (model, tree) => panic!("model refused: {}, tree: {tree:?}", model.is_err()),
    };
    let expected: BTreeSet<String> = model.names.keys().map(|path| path.join("/")).collect();
    let found: BTreeSet<String> = tree
        .walk()
        .map(|(path, _)| String::from_utf8(path).unwrap())
        .collect();
    assert_eq!(found, expected);
    assert_eq!(tree.walk().count(), expected.len());
    let mut numbers: BTreeMap<usize, Ino> = BTreeMap::new();
    for (path, &inode) in &model.names {
        let path = path.join("/");
        let ino = tree.resolve(path.as_bytes()).unwrap();
        assert_eq!(
            *numbers.entry(inode).or_insert(ino),
            ino,
            "{path} is another inode"
        );
        let attributes = tree.attributes(ino);
        let (kind, mode, layer) = &model.inodes[inode];
        assert_eq!(attributes.mode, *mode, "{path}");
        match kind {
            EntryKind::Directory => {
                assert_eq!(attributes.kind, Kind::Directory, "{path}");
                let prefix = if path.is_empty() { path } else { path + "/" };
                let below = |it: &&String| {
                    let rest = it.strip_prefix(&prefix);
                    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
                };
                let directory = |it: &&String| at(&tree, it).kind == Kind::Directory;
                let count = expected.iter().filter(below).filter(directory).count();
                assert_eq!(attributes.nlink as usize, 2 + count, "{prefix}");
            }
            EntryKind::Regular { size, .. } => {
                assert_eq!(
                    (attributes.kind, attributes.size),
                    (Kind::Regular, *size),
                    "{path}"
                );
                assert_eq!(tree.file(ino).unwrap().layer, *layer, "{path}");
            }
            EntryKind::Symlink(target) => assert_eq!(tree.read_link(ino), Some(&**target)),
            _ => assert_eq!(attributes.kind, Kind::Fifo, "{path}"),
        }
        if *kind != EntryKind::Directory {
            let links = model.names.values().filter(|it| **it == inode).count();
            assert_eq!(attributes.nlink as usize, links);
        }
    }
    let distinct: BTreeSet<Ino> = numbers.values().copied().collect();
    assert_eq!(distinct.len(), numbers.len());
    assert_eq!(tree.inode_count(), numbers.len());
}

fn component() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(component(), 1..4).prop_map(|it| it.join("/"))
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let target = prop_oneof![
        path(),
        path().prop_map(|it| format!("/{it}")),
        path().prop_map(|it| format!("../{it}")),
        Just("..".to_owned()),
        Just("/".to_owned()),
    ];
    let kind = prop_oneof![
        4 => Just(EntryKind::Directory),
        4 => (1..100_u64).prop_map(|size| EntryKind::Regular { size, chunks: 0..1 }),
        2 => target.prop_map(|it| EntryKind::Symlink(it.into_bytes().into())),
        2 => path().prop_map(|it| EntryKind::Hardlink(it.into_bytes().into())),
        1 => Just(EntryKind::Fifo),
    ];
    let plain = (path(), kind, 0..0o1000_u16).prop_map(|(path, kind, mode)| {
        let mut entry = entry(&path, kind);
        entry.mode = mode;
        entry
    });
    let whiteout = prop_oneof![
        path().prop_map(|path| match path.rsplit_once('/') {
            Some((parent, name)) => format!("{parent}/.wh.{name}"),
            None => format!(".wh.{path}"),
        }),
        path().prop_map(|path| format!("{path}/.wh..wh..opq")),
    ];
    prop_oneof![4 => plain, 1 => whiteout.prop_map(|path| file(&path, 0))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn merging_is_as_the_model_says(
        layers in prop::collection::vec(prop::collection::vec(any_entry(), 0..8), 1..4)
    ) {
        compare(layers);
    }
}
