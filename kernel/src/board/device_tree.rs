//! The flattened device tree (FDT): validated once, then walked.

use super::node::{MAX_DEPTH, TreeNode};
use core::fmt;
use drivers::pcie::Phandle;
use dtoolkit::Node;
use dtoolkit::error::{FdtErrorKind, FdtParseError};
use dtoolkit::fdt::{Fdt, FdtNode};

/// The largest device tree that is accepted: the limit of the arm64 boot protocol.
pub const MAX_DEVICE_TREE_BYTES: usize = 2 << 20;

/// The maximum number of memory reservations. All are kept in the early heap, before memory is known.
pub(super) const MAX_RESERVATIONS: usize = 1024;

const MAGIC: u32 = 0xd00d_feed;
// Fields of the header.
const OFFSET_OF_STRUCTURE: usize = 8;
const OFFSET_OF_STRINGS: usize = 12;
const SIZE_OF_STRINGS: usize = 32;
// Tokens of the structure block.
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// A blob is not a usable device tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceTreeError {
    /// The magic number is this word (big-endian).
    BadMagic(u32),
    /// The header states this size in bytes, more than [`MAX_DEVICE_TREE_BYTES`].
    TooLarge(usize),
    /// The header states `total` bytes, but only `len` are present.
    Truncated {
        /// The number of bytes present.
        len: usize,
        /// The number of bytes stated.
        total: usize,
    },
    /// The structure is invalid.
    Malformed(FdtParseError),
    /// There are this many memory reservations, more than are accepted.
    TooManyReservations(usize),
}

impl fmt::Display for DeviceTreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic(magic) => {
                write!(f, "no device tree: magic number {magic:#010x} instead of {MAGIC:#010x}")
            }
            Self::TooLarge(total) => {
                write!(f, "device tree of {total} bytes exceeds the limit of {MAX_DEVICE_TREE_BYTES}")
            }
            Self::Truncated { len, total } => write!(f, "truncated device tree: {len} of {total} bytes"),
            Self::Malformed(error) => write!(f, "malformed device tree: {error}"),
            Self::TooManyReservations(count) => {
                write!(
                    f,
                    "device tree with {count} memory reservations exceeds the limit of {MAX_RESERVATIONS}"
                )
            }
        }
    }
}

impl core::error::Error for DeviceTreeError {}

/// The size in bytes stated by `header`, the first 8 bytes or more of a device tree: the range that must be
/// mapped before [`DeviceTree::new`].
pub fn total_size(header: &[u8]) -> Result<usize, DeviceTreeError> {
    let word = |at: usize| {
        header.get(at..at + 4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let (Some(magic), Some(total)) = (word(0), word(4)) else {
        return Err(DeviceTreeError::Truncated { len: header.len(), total: 8 });
    };
    match total as usize {
        _ if magic != MAGIC => Err(DeviceTreeError::BadMagic(magic)),
        total if total > MAX_DEVICE_TREE_BYTES => Err(DeviceTreeError::TooLarge(total)),
        total => Ok(total),
    }
}

/// A device tree with a validated structure.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTree<'a> {
    pub(super) fdt: Fdt<'a>,
}

impl<'a> DeviceTree<'a> {
    /// Validates the device tree at the start of `bytes`; trailing bytes are ignored.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DeviceTreeError> {
        let total = total_size(bytes)?;
        let blob = bytes.get(..total).ok_or(DeviceTreeError::Truncated { len: bytes.len(), total })?;
        Fdt::new(blob).or_else(|error| with_long_names(blob, error)).map(|fdt| Self { fdt })
    }

    /// All nodes, parents before children. Nodes nested deeper than [`MAX_DEPTH`] are skipped.
    pub fn nodes(&self) -> impl Iterator<Item = TreeNode<'a>> + use<'a> {
        Nodes { tree: *self, current: None, children: [const { None }; MAX_DEPTH] }
    }

    /// The root node.
    pub fn root(&self) -> TreeNode<'a> {
        TreeNode::root(self.fdt.root())
    }

    /// The node at `path`, which starts with `/`. Unit addresses may be omitted where the name is unique.
    pub fn find(&self, path: &str) -> Option<TreeNode<'a>> {
        let mut node = self.root();
        for name in path.strip_prefix('/')?.split('/').filter(|name| !name.is_empty()) {
            node = node.child(node.fdt_node().child(name)?)?;
        }
        Some(node)
    }

    /// The enabled nodes that are compatible with one of `names`.
    pub fn compatible<'n>(&self, names: &'n [&str]) -> impl Iterator<Item = TreeNode<'a>> + use<'a, 'n> {
        self.nodes().filter(move |node| node.is_compatible(names) && node.is_enabled())
    }

    /// The node with this phandle.
    pub fn by_phandle(&self, phandle: Phandle) -> Option<TreeNode<'a>> {
        self.nodes().find(|node| node.phandle() == Some(phandle))
    }
}

/// The tree in `blob` if its only defect is that names are not as the specification requires: trees of real
/// boards have property names of more than 31 characters. `error` is that of [`Fdt::new`], which checks the
/// header and the reservations before the first name.
fn with_long_names(blob: &[u8], error: FdtParseError) -> Result<Fdt<'_>, DeviceTreeError> {
    let in_name = matches!(error.kind, FdtErrorKind::InvalidPropertyName | FdtErrorKind::InvalidNodeName);
    match in_name && has_valid_structure(blob) == Some(true) {
        true => Ok(Fdt::new_unchecked(blob)),
        false => Err(DeviceTreeError::Malformed(error)),
    }
}

/// Whether the structure block of `blob`, whose header is valid, is valid apart from the length of names
/// (Devicetree specification, 5.4); `None` if it ends too early.
fn has_valid_structure(blob: &[u8]) -> Option<bool> {
    let word = |at: usize| Some(u32::from_be_bytes(*blob.get(at..)?.first_chunk()?));
    let strings = blob.get(word(OFFSET_OF_STRINGS)? as usize..)?;
    let strings = strings.get(..word(SIZE_OF_STRINGS)? as usize)?;
    let mut at = word(OFFSET_OF_STRUCTURE)? as usize;
    let (mut depth, mut in_properties) = (0_usize, false);
    loop {
        let token = word(at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = name(blob.get(at..)?)?;
                if name.is_empty() != (depth == 0) {
                    return Some(false);
                }
                at = (at + name.len() + 1).next_multiple_of(4);
                (depth, in_properties) = (depth + 1, true);
            }
            PROPERTY if in_properties => {
                let (len, offset) = (word(at)? as usize, word(at + 4)? as usize);
                let value = blob.get(at + 8..)?.get(..len)?;
                name(strings.get(offset..)?).filter(|name| !name.is_empty())?;
                at = (at + 8 + value.len()).next_multiple_of(4);
            }
            END_NODE if depth == 1 => return Some(word(at)? == END),
            END_NODE if depth > 1 => (depth, in_properties) = (depth - 1, false),
            NOP if depth > 0 => {}
            _ => return Some(false),
        }
    }
}

/// The NUL-terminated name at the start of `bytes`, which must be printable.
fn name(bytes: &[u8]) -> Option<&[u8]> {
    let name = &bytes[..bytes.iter().position(|&byte| byte == 0)?];
    name.iter().all(u8::is_ascii_graphic).then_some(name)
}

type Children<'a> = <FdtNode<'a> as Node>::Children<'a>;

/// A depth-first walk: the current node, and the remaining children at each level.
struct Nodes<'a> {
    tree: DeviceTree<'a>,
    current: Option<TreeNode<'a>>,
    children: [Option<Children<'a>>; MAX_DEPTH],
}

impl<'a> Nodes<'a> {
    fn enter(&mut self, node: TreeNode<'a>) -> Option<TreeNode<'a>> {
        self.children[node.depth()] = Some(node.fdt_node().children());
        self.current = Some(node);
        self.current
    }
}

impl<'a> Iterator for Nodes<'a> {
    type Item = TreeNode<'a>;

    fn next(&mut self) -> Option<TreeNode<'a>> {
        let Some(mut current) = self.current else { return self.enter(self.tree.root()) };
        loop {
            match self.children[current.depth()].as_mut()?.next() {
                Some(child) => {
                    if let Some(child) = current.child(child) {
                        return self.enter(child);
                    }
                }
                None => current = current.parent()?,
            }
            self.current = Some(current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use dtoolkit::model::{DeviceTree as TreeModel, DeviceTreeNode};
    use proptest::prelude::*;

    #[test]
    fn the_walk_visits_parents_before_children_and_every_node() {
        let blob = fixture::virt().to_dtb();
        let tree = DeviceTree::new(&blob).unwrap();
        let paths: Vec<_> = tree.nodes().map(|node| node.to_string()).collect();
        assert_eq!(paths[0], "/");
        assert!(paths.contains(&"/cpus/cpu@1".into()) && paths.contains(&"/intc@8000000/its@8080000".into()));
        for path in &paths {
            assert_eq!(tree.find(path).map(|node| node.to_string()).as_ref(), Some(path));
        }
    }

    #[test]
    fn an_invalid_header_is_an_error() {
        assert_eq!(DeviceTree::new(&[]).unwrap_err(), DeviceTreeError::Truncated { len: 0, total: 8 });
        assert_eq!(
            DeviceTree::new(&[0x54, 0x41, 0, 1, 0, 0, 0, 5]).unwrap_err(),
            DeviceTreeError::BadMagic(0x5441_0001)
        );
        let huge = [0xd0, 0x0d, 0xfe, 0xed, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(DeviceTree::new(&huge).unwrap_err(), DeviceTreeError::TooLarge(0xffff_ffff));
        assert!(matches!(
            DeviceTree::new(&[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 8]).unwrap_err(),
            DeviceTreeError::Malformed(_)
        ));
    }

    const LONG: &str = "cavium,cn9900-broken-page1-regspace";

    /// The tree of `virt` with a property of the SMMU whose name has 35 characters.
    fn with_long_name() -> Vec<u8> {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("placeholder", &[]));
        fixture::rename_property(model.to_dtb(), "placeholder", LONG)
    }

    #[test]
    fn names_longer_than_specified_are_accepted() {
        let blob = with_long_name();
        let kind = Fdt::new(&blob).err().map(|error| error.kind);
        assert_eq!(kind, Some(FdtErrorKind::InvalidPropertyName), "the parser itself refuses the tree");
        let tree = DeviceTree::new(&blob).unwrap();
        assert!(tree.find("/smmuv3").unwrap().property(LONG).is_some());
        let original = fixture::virt().to_dtb();
        assert_eq!(tree.nodes().count(), DeviceTree::new(&original).unwrap().nodes().count());
    }

    /// All that dtoolkit checks apart from names is checked in a tree with long names as well.
    #[test]
    fn structure_of_a_tree_with_long_names_is_checked() {
        let blob = with_long_name();
        let start = u32::from_be_bytes(*blob[OFFSET_OF_STRUCTURE..].first_chunk().unwrap()) as usize;
        let end = u32::from_be_bytes(*blob[OFFSET_OF_STRINGS..].first_chunk().unwrap()) as usize;
        let (mut accepted, mut refused) = (0, 0);
        for at in (start..end).step_by(if cfg!(miri) { 404 } else { 4 }) {
            for value in [1, 2, 3, 4, 9, 0x7fff_ffff_u32] {
                let mut blob = blob.clone();
                blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
                match DeviceTree::new(&blob) {
                    // The parser panics on an error that `has_valid_structure` does not find.
                    Ok(tree) => {
                        let _ = super::super::Platform::read(&tree, &["brcm,bcm2835-dma"]);
                        accepted += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(accepted > 10 && refused > 10, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let blob = fixture::virt().to_dtb();
        for len in 0..blob.len() {
            assert!(matches!(DeviceTree::new(&blob[..len]), Err(DeviceTreeError::Truncated { .. })), "{len}");
        }
        let padded: Vec<_> = blob.iter().copied().chain([0xff; 64]).collect();
        assert!(DeviceTree::new(&padded).is_ok());
    }

    #[test]
    fn nodes_nested_too_deeply_are_skipped() {
        let mut node = DeviceTreeNode::new("n").unwrap();
        for _ in 0..1000 {
            node = DeviceTreeNode::builder("n").unwrap().child(node).build();
        }
        let mut tree = TreeModel::new();
        tree.root.add_child(node);
        tree.root.add_child(DeviceTreeNode::new("after").unwrap());
        let blob = tree.to_dtb();
        let tree = DeviceTree::new(&blob).unwrap();
        assert_eq!(tree.nodes().count(), MAX_DEPTH + 1);
        assert!(tree.nodes().any(|node| node.to_string() == "/after"));
    }

    proptest! {
        #[test]
        fn corrupted_bytes_never_panic(flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8)) {
            corrupt_and_read(fixture::virt().to_dtb(), &flips);
            corrupt_and_read(with_long_name(), &flips);
        }
    }

    fn corrupt_and_read(mut blob: Vec<u8>, flips: &[(proptest::sample::Index, u8)]) {
        for (at, value) in flips {
            let at = at.index(blob.len());
            blob[at] = *value;
        }
        if let Ok(tree) = DeviceTree::new(&blob) {
            let _ = super::super::Platform::read(&tree, &["brcm,bcm2835-dma"]);
        }
    }
}
