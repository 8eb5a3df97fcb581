//! The tree against a model: a map of paths.

use super::*;
use alloc::format;
use alloc::string::String;
use proptest::prelude::*;
use std::collections::BTreeMap;

type TestTree = FileTree<u32, ()>;

const NOW: Timespec = Timespec { seconds: 7, nanoseconds: 0 };

/// A node of the model: its content, or `None` for a directory.
type PathMap = BTreeMap<String, Option<u32>>;

#[derive(Clone, Debug)]
enum TreeStep {
    Create(String),
    Directory(String),
    Link(String, String),
    Unlink(String),
    RemoveDirectory(String),
    Rename(String, String, bool),
}

fn steps() -> impl Strategy<Value = TreeStep> {
    let path = || {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
            .prop_map(|names| format!("/tmp/{}", names.join("/")))
    };
    prop_oneof![
        2 => path().prop_map(TreeStep::Create),
        2 => path().prop_map(TreeStep::Directory),
        1 => (path(), path()).prop_map(|(old, new)| TreeStep::Link(old, new)),
        1 => path().prop_map(TreeStep::Unlink),
        1 => path().prop_map(TreeStep::RemoveDirectory),
        2 => (path(), path(), any::<bool>()).prop_map(|(old, new, replace)| TreeStep::Rename(old, new, replace)),
    ]
}

fn mounted() -> TestTree {
    let mut tree = TestTree::new();
    tree.add_mount(b"tmp", 0o1777).unwrap();
    tree.add_mount(b"run", 0o755).unwrap();
    tree
}

fn end(tree: &TestTree, path: &str) -> Result<PathEnd<NodeId>, Errno> {
    resolve(tree, &TestTree::ROOT, path.as_bytes(), false)
}

fn apply(tree: &mut TestTree, step: &TreeStep, content: u32) -> Result<(), Errno> {
    match step {
        TreeStep::Create(path) => {
            let end = end(tree, path)?;
            tree.create(end.directory, &end.name, NodeKind::File(content), 0o100644, NOW).map(drop)
        }
        TreeStep::Directory(path) => {
            let end = end(tree, path)?;
            let kind = NodeKind::Directory(Directory::default());
            tree.create(end.directory, &end.name, kind, 0o40755, NOW).map(drop)
        }
        TreeStep::Link(old, new) => {
            let old = end(tree, old)?.node.ok_or(Errno::ENOENT)?;
            let end = end(tree, new)?;
            tree.link(end.directory, &end.name, old, NOW)
        }
        TreeStep::Unlink(path) => {
            let end = end(tree, path)?;
            tree.unlink(end.directory, &end.name, NOW).map(drop)
        }
        TreeStep::RemoveDirectory(path) => {
            let end = end(tree, path)?;
            tree.remove_directory(end.directory, &end.name, NOW).map(drop)
        }
        TreeStep::Rename(old, new, replace) => {
            let mode = if *replace { RenameMode::Replace } else { RenameMode::NoReplace };
            let (old, new) = (end(tree, old)?, end(tree, new)?);
            tree.rename((old.directory, &old.name), (new.directory, &new.name), mode, NOW).map(drop)
        }
    }
}

fn check_parent(model: &PathMap, path: &str) -> Result<(), Errno> {
    let above: Vec<_> =
        path.match_indices('/').map(|(at, _)| &path[..at]).filter(|part| part.len() > 4).collect();
    for part in above {
        match model.get(part) {
            None => return Err(Errno::ENOENT),
            Some(Some(_)) => return Err(Errno::ENOTDIR),
            Some(None) => {}
        }
    }
    Ok(())
}

fn is_empty(model: &PathMap, path: &str) -> bool {
    !model.keys().any(|other| other.starts_with(&format!("{path}/")))
}

fn apply_to_model(model: &mut PathMap, step: &TreeStep, content: u32) -> Result<(), Errno> {
    let new_name = |model: &PathMap, path: &str| {
        check_parent(model, path)?;
        if model.contains_key(path) { Err(Errno::EEXIST) } else { Ok(()) }
    };
    match step {
        TreeStep::Create(path) => {
            new_name(model, path)?;
            model.insert(path.clone(), Some(content));
        }
        TreeStep::Directory(path) => {
            new_name(model, path)?;
            model.insert(path.clone(), None);
        }
        TreeStep::Link(old, new) => {
            check_parent(model, old)?;
            let found = *model.get(old).ok_or(Errno::ENOENT)?;
            new_name(model, new)?;
            let content = found.ok_or(Errno::EPERM)?;
            model.insert(new.clone(), Some(content));
        }
        TreeStep::Unlink(path) => {
            check_parent(model, path)?;
            model.get(path).ok_or(Errno::ENOENT)?.ok_or(Errno::EISDIR)?;
            model.remove(path);
        }
        TreeStep::RemoveDirectory(path) => {
            check_parent(model, path)?;
            match model.get(path).ok_or(Errno::ENOENT)? {
                Some(_) => return Err(Errno::ENOTDIR),
                None if !is_empty(model, path) => return Err(Errno::ENOTEMPTY),
                None => model.remove(path),
            };
        }
        TreeStep::Rename(old, new, replace) => {
            check_parent(model, old)?;
            check_parent(model, new)?;
            let moved = *model.get(old).ok_or(Errno::ENOENT)?;
            let replaced = model.get(new).copied();
            match replaced {
                Some(_) if !replace => return Err(Errno::EEXIST),
                _ if moved.is_none() && new.starts_with(&format!("{old}/")) => return Err(Errno::EINVAL),
                // Both are names of one file, or the same name.
                Some(other) if old == new || moved.is_some() && other == moved => return Ok(()),
                Some(None) if old.starts_with(&format!("{new}/")) => return Err(Errno::ENOTEMPTY),
                Some(None) if moved.is_some() => return Err(Errno::EISDIR),
                Some(None) if !is_empty(model, new) => return Err(Errno::ENOTEMPTY),
                Some(Some(_)) if moved.is_none() => return Err(Errno::ENOTDIR),
                _ => {}
            }
            let prefix = format!("{old}/");
            let below: Vec<_> = model.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
            for path in below {
                let content = model.remove(&path).unwrap();
                model.insert(format!("{new}/{}", &path[prefix.len()..]), content);
            }
            model.remove(old);
            model.insert(new.clone(), moved);
        }
    }
    Ok(())
}

fn check_tree(tree: &TestTree, model: &PathMap) {
    let mut found = PathMap::new();
    let mut below = vec![(String::from("/tmp"), end(tree, "/tmp").unwrap().node.unwrap())];
    while let Some((path, id)) = below.pop() {
        let entries = tree.entries(id).unwrap();
        let mut directories = 0;
        for entry in entries.entries_from(0) {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            assert_eq!(entries.get(&entry.name), Some(entry.node));
            match &tree.node(entry.node).kind {
                NodeKind::File(content) => {
                    found.insert(path, Some(*content));
                }
                _ => {
                    directories += 1;
                    assert_eq!(
                        (tree.parent(entry.node), tree.path_of(entry.node).ok()),
                        (Ok(id), Some(path.as_bytes().to_vec()))
                    );
                    found.insert(path.clone(), None);
                    below.push((path, entry.node));
                }
            }
        }
        assert_eq!(tree.node(id).links, 2 + directories, "{path}");
    }
    assert_eq!(&found, model);
    for (path, content) in model {
        let links = model.values().filter(|other| content.is_some() && *other == content).count();
        let node = tree.node(end(tree, path).unwrap().node.unwrap());
        assert!(content.is_none() || node.links == links as u32, "{path}: {} links", node.links);
    }
    // The root, /tmp and /run are not counted for the root only.
    assert_eq!(tree.used, 2 + model.len());
    assert_eq!(tree.nodes.iter().flatten().count() + tree.free.len(), tree.nodes.len());
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "minutes of safe code")]
    fn operations_match_a_map_of_paths(steps in prop::collection::vec(steps(), 1..60)) {
        let (mut tree, mut model) = (mounted(), PathMap::new());
        for (n, step) in steps.iter().enumerate() {
            let result = apply(&mut tree, step, n as u32);
            prop_assert_eq!(result, apply_to_model(&mut model, step, n as u32), "{:?}", step);
            check_tree(&tree, &model);
        }
    }

    /// A reader of a directory sees each entry once that exists all the time.
    #[test]
    #[cfg_attr(miri, ignore = "minutes of safe code")]
    fn positions_of_entries_are_stable(changes in prop::collection::vec((any::<bool>(), 0u8..20), 1..60), piece in 1usize..5) {
        let mut directory = Directory::default();
        let mut always: std::collections::BTreeSet<u8> = (0..20).collect();
        for &name in &always {
            directory.insert(&[name], NodeId(name.into())).unwrap();
        }
        let (mut position, mut seen) = (0, Vec::new());
        for (is_insert, name) in changes {
            let entries = directory.entries_from(position);
            for entry in &entries[..entries.len().min(piece)] {
                seen.push(entry.name[0]);
                position = entry.position + 1;
            }
            if is_insert {
                directory.insert(&[name], NodeId(0)).unwrap();
            } else {
                directory.remove(&[name]);
                always.remove(&name);
            }
        }
        seen.extend(directory.entries_from(position).iter().map(|entry| entry.name[0]));
        for name in always {
            prop_assert_eq!(seen.iter().filter(|&&other| other == name).count(), 1, "{}", name);
        }
    }
}

#[test]
fn open_node_without_names_is_freed_by_its_last_close() {
    let mut tree = mounted();
    let tmp = end(&tree, "/tmp").unwrap().node.unwrap();
    let file = tree.create(tmp, b"a", NodeKind::File(5), 0o100644, NOW).unwrap();
    tree.open(file);
    tree.open(file);
    assert!(tree.unlink(tmp, b"a", NOW).unwrap().is_none());
    assert_eq!((tree.node(file).links, tree.path_of(file)), (0, Err(Errno::ENOENT)));
    assert_eq!(tree.link(tmp, b"b", file, NOW), Err(Errno::ENOENT));
    assert!(tree.close(file).is_none());
    assert!(matches!(tree.close(file).map(|node| node.kind), Some(NodeKind::File(5))));

    let unnamed = tree.create_unnamed(NodeKind::File(6), 0o100600, NOW, b"/memfd:x".to_vec()).unwrap();
    assert!(matches!(tree.close(unnamed).map(|node| node.kind), Some(NodeKind::File(6))));
    assert_eq!(tree.used, 2);
}

#[test]
fn removed_directory_has_no_parent_and_takes_no_entries() {
    let mut tree = mounted();
    let tmp = end(&tree, "/tmp").unwrap().node.unwrap();
    let kind = || NodeKind::Directory(Directory::default());
    let gone = tree.create(tmp, b"gone", kind(), 0o40755, NOW).unwrap();
    let file = tree.create(tmp, b"file", NodeKind::File(1), 0o100644, NOW).unwrap();
    tree.open(gone);
    assert!(tree.remove_directory(tmp, b"gone", NOW).unwrap().is_none());
    assert_eq!(tree.parent(gone), Err(Errno::ENOENT));
    assert_eq!(tree.create(gone, b"a", NodeKind::File(0), 0, NOW), Err(Errno::ENOENT));
    assert_eq!(tree.link(gone, b"a", file, NOW), Err(Errno::ENOENT));
    let moved = tree.rename((tmp, b"file"), (gone, b"a"), RenameMode::Replace, NOW);
    assert_eq!(moved.map(drop), Err(Errno::ENOENT));
    assert!(tree.close(gone).is_some());
}

#[test]
fn archive_is_read_only_and_mounts_are_separate() {
    let mut tree = mounted();
    let root = TestTree::ROOT;
    let [tmp, run] = ["/tmp", "/run"].map(|path| end(&tree, path).unwrap().node.unwrap());
    assert_eq!(tree.create(root, b"a", NodeKind::File(0), 0, NOW), Err(Errno::EROFS));
    assert_eq!(tree.create(root, b"tmp", NodeKind::File(0), 0, NOW), Err(Errno::EEXIST));
    assert_eq!(tree.unlink(root, b"a", NOW).map(drop), Err(Errno::EROFS));
    assert_eq!(tree.remove_directory(root, b"tmp", NOW).map(drop), Err(Errno::EBUSY));
    let file = tree.create(tmp, b"file", NodeKind::File(0), 0, NOW).unwrap();
    assert_eq!(tree.link(run, b"file", file, NOW), Err(Errno::EXDEV));
    for (new, error) in [(run, Errno::EXDEV), (root, Errno::EXDEV)] {
        let moved = tree.rename((tmp, b"file"), (new, b"file"), RenameMode::Replace, NOW);
        assert_eq!(moved.map(drop), Err(error));
    }
    let paths = [root, tmp, run].map(|mount| String::from_utf8(tree.path_of(mount).unwrap()).unwrap());
    assert_eq!(paths, ["/", "/tmp", "/run"]);
}

#[test]
fn number_of_nodes_is_limited() {
    let mut tree = mounted();
    let tmp = end(&tree, "/tmp").unwrap().node.unwrap();
    tree.limit = tree.used + 4;
    let link = |len: usize| NodeKind::Link(vec![b'x'; len]);
    assert_eq!(tree.create(tmp, b"long", link(4 * LINK_BYTES), LINK_MODE, NOW), Err(Errno::ENOSPC));
    tree.create(tmp, b"long", link(LINK_BYTES), LINK_MODE, NOW).unwrap();
    let file = tree.create(tmp, b"file", NodeKind::File(0), 0, NOW).unwrap();
    tree.link(tmp, b"other", file, NOW).unwrap();
    assert_eq!(tree.link(tmp, b"third", file, NOW), Err(Errno::ENOSPC));
    assert_eq!(tree.create(tmp, b"third", NodeKind::File(0), 0, NOW), Err(Errno::ENOSPC));
    for name in [&b"long"[..], b"file", b"other"] {
        tree.unlink(tmp, name, NOW).unwrap();
    }
    assert_eq!(tree.limit - tree.used, 4);
}
