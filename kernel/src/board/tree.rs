//! The flattened device tree: checked once, then walked.

use super::place::{MAX_DEPTH, Place};
use core::fmt;
use drivers::pcie::Phandle;
use dtoolkit::Node;
use dtoolkit::error::FdtParseError;
use dtoolkit::fdt::{Fdt, FdtNode};

/// The largest tree that is looked at: the arm64 boot protocol's limit.
pub const MAX_TREE_BYTES: usize = 2 << 20;

/// The most places that may be reserved. All are kept in the heap that there is before memory is known.
pub(super) const MAX_RESERVATIONS: usize = 1024;

const MAGIC: u32 = 0xd00d_feed;

/// A blob that is no device tree this kernel can use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeError {
    /// Something else starts with this word (big-endian).
    NotATree(u32),
    /// It says it has this many bytes, more than [`MAX_TREE_BYTES`].
    TooLarge(usize),
    /// It says it has `total` bytes, but only `len` are there.
    Truncated {
        /// The bytes that are there.
        len: usize,
        /// The bytes that should be.
        total: usize,
    },
    /// Its structure is broken.
    Damaged(FdtParseError),
    /// It reserves memory in more places than the kernel keeps clear of.
    TooManyReservations(usize),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATree(magic) => {
                write!(f, "no device tree: magic number {magic:#010x} instead of {MAGIC:#010x}")
            }
            Self::TooLarge(total) => {
                write!(f, "device tree of {total} bytes exceeds the limit of {MAX_TREE_BYTES}")
            }
            Self::Truncated { len, total } => write!(f, "truncated device tree: {len} of {total} bytes"),
            Self::Damaged(error) => write!(f, "malformed device tree: {error}"),
            Self::TooManyReservations(places) => {
                write!(
                    f,
                    "device tree with {places} memory reservations exceeds the limit of {MAX_RESERVATIONS}"
                )
            }
        }
    }
}

impl core::error::Error for TreeError {}

/// How many bytes the tree that starts with `header` (8 bytes at least) says it has: what must be mapped before
/// [`Tree::new`].
pub fn total_size(header: &[u8]) -> Result<usize, TreeError> {
    let word = |at: usize| {
        header.get(at..at + 4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let (Some(magic), Some(total)) = (word(0), word(4)) else {
        return Err(TreeError::Truncated { len: header.len(), total: 8 });
    };
    match total as usize {
        _ if magic != MAGIC => Err(TreeError::NotATree(magic)),
        total if total > MAX_TREE_BYTES => Err(TreeError::TooLarge(total)),
        total => Ok(total),
    }
}

/// A device tree whose structure has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    pub(super) fdt: Fdt<'a>,
}

impl<'a> Tree<'a> {
    /// The tree at the start of `bytes`; what follows it is ignored.
    pub fn new(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let total = total_size(bytes)?;
        let blob = bytes.get(..total).ok_or(TreeError::Truncated { len: bytes.len(), total })?;
        Ok(Self { fdt: Fdt::new(blob).map_err(TreeError::Damaged)? })
    }

    /// Every node, parents before children. Nodes nested deeper than [`MAX_DEPTH`] are passed over.
    pub fn places(&self) -> impl Iterator<Item = Place<'a>> + use<'a> {
        Places { tree: *self, here: None, children: [const { None }; MAX_DEPTH] }
    }

    /// The root node.
    pub fn root(&self) -> Place<'a> {
        Place::root(self.fdt.root())
    }

    /// The node at `path`, which starts with `/`. Unit addresses may be left out where they decide nothing.
    pub fn find(&self, path: &str) -> Option<Place<'a>> {
        let mut place = self.root();
        for name in path.strip_prefix('/')?.split('/').filter(|name| !name.is_empty()) {
            place = place.child(place.node().child(name)?)?;
        }
        Some(place)
    }

    /// The enabled nodes that are compatible with one of `names`.
    pub fn compatible<'n>(&self, names: &'n [&str]) -> impl Iterator<Item = Place<'a>> + use<'a, 'n> {
        self.places().filter(move |place| place.is_compatible(names) && place.is_enabled())
    }

    /// The node that others call `phandle`.
    pub fn by_phandle(&self, phandle: Phandle) -> Option<Place<'a>> {
        self.places().find(|place| place.phandle() == Some(phandle))
    }
}

type Children<'a> = <FdtNode<'a> as Node>::Children<'a>;

/// The walk: where it is, and at each level the children that are left.
struct Places<'a> {
    tree: Tree<'a>,
    here: Option<Place<'a>>,
    children: [Option<Children<'a>>; MAX_DEPTH],
}

impl<'a> Places<'a> {
    fn enter(&mut self, place: Place<'a>) -> Option<Place<'a>> {
        self.children[place.depth()] = Some(place.node().children());
        self.here = Some(place);
        self.here
    }
}

impl<'a> Iterator for Places<'a> {
    type Item = Place<'a>;

    fn next(&mut self) -> Option<Place<'a>> {
        let Some(mut here) = self.here else { return self.enter(self.tree.root()) };
        loop {
            match self.children[here.depth()].as_mut()?.next() {
                Some(node) => {
                    if let Some(place) = here.child(node) {
                        return self.enter(place);
                    }
                }
                None => here = here.parent()?,
            }
            self.here = Some(here);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode};
    use proptest::prelude::*;

    #[test]
    fn the_walk_visits_parents_before_children_and_every_node() {
        let blob = fixture::virt().to_dtb();
        let tree = Tree::new(&blob).unwrap();
        let paths: Vec<_> = tree.places().map(|place| place.to_string()).collect();
        assert_eq!(paths[0], "/");
        assert!(paths.contains(&"/cpus/cpu@1".into()) && paths.contains(&"/intc@8000000/its@8080000".into()));
        for path in &paths {
            assert_eq!(tree.find(path).map(|place| place.to_string()).as_ref(), Some(path));
        }
    }

    #[test]
    fn a_blob_that_is_no_tree_is_an_error() {
        assert_eq!(Tree::new(&[]).unwrap_err(), TreeError::Truncated { len: 0, total: 8 });
        assert_eq!(Tree::new(&[0x54, 0x41, 0, 1, 0, 0, 0, 5]).unwrap_err(), TreeError::NotATree(0x5441_0001));
        let huge = [0xd0, 0x0d, 0xfe, 0xed, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Tree::new(&huge).unwrap_err(), TreeError::TooLarge(0xffff_ffff));
        assert!(matches!(
            Tree::new(&[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 8]).unwrap_err(),
            TreeError::Damaged(_)
        ));
    }

    #[test]
    fn every_cut_of_a_tree_is_an_error() {
        let blob = fixture::virt().to_dtb();
        for len in 0..blob.len() {
            assert!(matches!(Tree::new(&blob[..len]), Err(TreeError::Truncated { .. })), "{len}");
        }
        let padded: Vec<_> = blob.iter().copied().chain([0xff; 64]).collect();
        assert!(Tree::new(&padded).is_ok());
    }

    #[test]
    fn nodes_too_deep_are_passed_over() {
        let mut node = DeviceTreeNode::new("n").unwrap();
        for _ in 0..1000 {
            node = DeviceTreeNode::builder("n").unwrap().child(node).build();
        }
        let mut tree = DeviceTree::new();
        tree.root.add_child(node);
        tree.root.add_child(DeviceTreeNode::new("after").unwrap());
        let blob = tree.to_dtb();
        let tree = Tree::new(&blob).unwrap();
        assert_eq!(tree.places().count(), MAX_DEPTH + 1);
        assert!(tree.places().any(|place| place.to_string() == "/after"));
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_panic(flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8)) {
            let mut blob = fixture::virt().to_dtb();
            for (at, value) in flips {
                let at = at.index(blob.len());
                blob[at] = value;
            }
            if let Ok(tree) = Tree::new(&blob) {
                let _ = super::super::Platform::read(&tree);
            }
        }
    }
}
