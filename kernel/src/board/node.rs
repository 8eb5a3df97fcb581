//! A device tree node with its ancestors: the meaning of many properties depends on the parent.

use core::fmt;
use drivers::pcie::Phandle;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// The deepest level at which nodes are read.
pub(super) const MAX_DEPTH: usize = 16;
/// The maximum number of cells of a property: the resulting descriptions must fit into the early heap.
const MAX_CELLS: usize = 4096;
/// The maximum number of printed bytes of a node's path.
const MAX_PRINTED_PATH: usize = 120;

/// A device tree node and its ancestors.
#[derive(Clone, Copy, Debug)]
pub struct TreeNode<'a> {
    /// The nodes from the root to this one; `None` beyond `depth`.
    path: [Option<FdtNode<'a>>; MAX_DEPTH],
    node: FdtNode<'a>,
    depth: usize,
}

impl<'a> TreeNode<'a> {
    pub(super) fn root(node: FdtNode<'a>) -> Self {
        let mut path = [None; MAX_DEPTH];
        path[0] = Some(node);
        Self { path, node, depth: 0 }
    }

    /// The child `node`; `None` if it is nested too deeply.
    pub(super) fn child(&self, node: FdtNode<'a>) -> Option<Self> {
        let mut child = Self { node, depth: self.depth + 1, ..*self };
        *child.path.get_mut(child.depth)? = Some(node);
        Some(child)
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn fdt_node(&self) -> FdtNode<'a> {
        self.node
    }

    /// Whether both are the same node of the tree.
    pub(super) fn is_same(&self, other: &TreeNode<'_>) -> bool {
        // The name is unique as a place in the blob, though not as text.
        core::ptr::eq(self.node.name(), other.node.name())
    }

    pub fn children(&self) -> impl Iterator<Item = Self> + use<'a> {
        let parent = *self;
        self.node.children().filter_map(move |node| parent.child(node))
    }

    /// The parent; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let depth = self.depth.checked_sub(1)?;
        let mut parent = Self { node: self.path[depth]?, depth, ..*self };
        parent.path[self.depth] = None;
        Some(parent)
    }

    /// This node and its ancestors, up to the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + use<'a> {
        core::iter::successors(Some(*self), Self::parent)
    }

    /// The value of a property in bytes.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.node.properties().find(|property| property.name() == name)?.value_as::<&'a [u8]>().ok()
    }

    /// The cells of a property; `None` also if its length is not a multiple of a cell or exceeds the limit.
    pub fn cells(&self, name: &str) -> Option<Cells<'a>> {
        let (cells, []) = self.property(name)?.as_chunks() else { return None };
        (cells.len() <= MAX_CELLS).then_some(Cells(cells))
    }

    /// The first string of a property.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.strings(name).next()
    }

    /// The strings of a property, up to the first that is not valid UTF-8.
    pub fn strings(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.property(name).unwrap_or(&[]);
        core::iter::from_fn(move || {
            let end = rest.iter().position(|&byte| byte == 0)?;
            let text = core::str::from_utf8(&rest[..end]).ok()?;
            rest = &rest[end + 1..];
            Some(text)
        })
    }

    /// The first cell of a property.
    pub fn cell(&self, name: &str) -> Option<u32> {
        self.cells(name)?.next()
    }

    /// The value of a property of one or two cells.
    pub fn number(&self, name: &str) -> Option<u64> {
        let mut cells = self.cells(name)?;
        let len = cells.len();
        if len == 0 { None } else { cells.take(len) }
    }

    /// Whether the node is compatible with one of `names`.
    pub fn is_compatible(&self, names: &[&str]) -> bool {
        self.strings("compatible").any(|own| names.contains(&own))
    }

    /// Whether neither the node nor an ancestor is disabled.
    pub fn is_enabled(&self) -> bool {
        self.ancestors().all(|node| matches!(node.text("status"), None | Some("okay" | "ok")))
    }

    /// The node's phandle.
    pub fn phandle(&self) -> Option<Phandle> {
        self.cell("phandle").or_else(|| self.cell("linux,phandle")).map(Phandle)
    }

    /// The `#address-cells` for the node's children.
    pub fn address_cells(&self) -> usize {
        self.cell("#address-cells").unwrap_or(2) as usize
    }

    /// The `#size-cells` for the node's children.
    pub fn size_cells(&self) -> usize {
        self.cell("#size-cells").unwrap_or(1) as usize
    }
}

impl fmt::Display for TreeNode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.depth == 0 {
            return f.write_str("/");
        }
        let mut left = MAX_PRINTED_PATH;
        self.path.iter().skip(1).flatten().try_for_each(|node| {
            let name = node.name();
            let shown = &name[..name.floor_char_boundary(left)];
            left -= shown.len();
            write!(f, "/{shown}")
        })
    }
}

/// A sequence of big-endian 32-bit cells, consumed from the front.
#[derive(Clone, Debug)]
pub struct Cells<'a>(&'a [[u8; 4]]);

impl<'a> Cells<'a> {
    /// The number of remaining cells.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no cell remains.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next cell.
    pub fn next(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*first))
    }

    /// The next `count` cells as one number, 0 for no cells. `None` if fewer remain or if the number does not
    /// fit 64 bits.
    pub fn take(&mut self, count: usize) -> Option<u64> {
        let mut number = 0u64;
        for _ in 0..count {
            let cell = self.next()?;
            number = number.checked_mul(1 << 32)? | u64::from(cell);
        }
        Some(number)
    }

    /// Splits off the next `count` cells.
    pub fn split(&mut self, count: usize) -> Option<Self> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(Self(front))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceTree, tests::fixture};
    use super::*;

    fn cells(values: &[u32]) -> Vec<[u8; 4]> {
        values.iter().map(|value| value.to_be_bytes()).collect()
    }

    #[test]
    fn numbers_are_read_from_big_endian_cells() {
        let raw = cells(&[1, 2, 3, 0, 0, 9]);
        let mut cells = Cells(&raw);
        assert_eq!((cells.take(2), cells.take(0), cells.len()), (Some(0x1_0000_0002), Some(0), 4));
        assert_eq!(cells.clone().take(3), None, "3 << 64 does not fit");
        assert_eq!(cells.split(1).and_then(|mut one| one.next()), Some(3));
        assert_eq!((cells.take(3), cells.is_empty(), cells.next()), (Some(9), true, None));
        assert_eq!(Cells(&raw).take(7), None);
    }

    #[test]
    fn a_disabled_parent_disables_its_children() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/intc").add_property(fixture::text("status", "disabled"));
        let blob = model.to_dtb();
        let tree = DeviceTree::new(&blob).unwrap();
        assert!(!tree.find("/intc/its").unwrap().is_enabled());
        assert!(tree.find("/timer").unwrap().is_enabled());
    }

    #[test]
    fn strings_end_at_invalid_utf8_or_a_missing_terminator() {
        let mut model = fixture::virt();
        model.root.add_property(fixture::bytes("odd", b"one\0two\0\xff\0three\0"));
        model.root.add_property(fixture::bytes("open", b"no end"));
        let blob = model.to_dtb();
        let root = DeviceTree::new(&blob).unwrap().root();
        assert_eq!(root.strings("odd").collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!((root.text("open"), root.text("none"), root.cells("open").is_none()), (None, None, true));
    }
}
