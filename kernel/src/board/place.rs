//! A node and the way to it: what a node means often depends on its parents.

use core::fmt;
use drivers::pcie::Phandle;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// How deep nodes are looked at.
pub(super) const MAX_DEPTH: usize = 16;
/// How many cells a property may have. What is made of them has to fit the first heap.
const MAX_CELLS: usize = 4096;
/// How much of a node's path is printed.
const SHOWN: usize = 120;

/// A node of the device tree, with its parents.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// From the root on; `None` beyond `depth`.
    path: [Option<FdtNode<'a>>; MAX_DEPTH],
    node: FdtNode<'a>,
    depth: usize,
}

impl<'a> Place<'a> {
    pub(super) fn root(node: FdtNode<'a>) -> Self {
        let mut path = [None; MAX_DEPTH];
        path[0] = Some(node);
        Self { path, node, depth: 0 }
    }

    /// The place of `node`, a child of this one; `None` when that is too deep.
    pub(super) fn child(&self, node: FdtNode<'a>) -> Option<Self> {
        let mut place = Self { node, depth: self.depth + 1, ..*self };
        *place.path.get_mut(place.depth)? = Some(node);
        Some(place)
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn node(&self) -> FdtNode<'a> {
        self.node
    }

    /// The children.
    pub fn children(&self) -> impl Iterator<Item = Self> + use<'a> {
        let place = *self;
        self.node.children().filter_map(move |node| place.child(node))
    }

    /// The parent; the root has none.
    pub fn parent(&self) -> Option<Self> {
        let depth = self.depth.checked_sub(1)?;
        let mut place = Self { node: self.path[depth]?, depth, ..*self };
        place.path[self.depth] = None;
        Some(place)
    }

    /// This node, its parent and so on up to the root.
    pub fn upward(&self) -> impl Iterator<Item = Self> + use<'a> {
        core::iter::successors(Some(*self), Self::parent)
    }

    /// The bytes of a property.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.node.properties().find(|property| property.name() == name)?.value_as::<&'a [u8]>().ok()
    }

    /// The cells of a property; `None` also when it is not made of whole cells, or of more than any device has.
    pub fn cells(&self, name: &str) -> Option<Cells<'a>> {
        let (cells, []) = self.property(name)?.as_chunks() else { return None };
        (cells.len() <= MAX_CELLS).then_some(Cells(cells))
    }

    /// The first string of a property.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.strings(name).next()
    }

    /// The strings of a property, up to the first that is not UTF-8.
    pub fn strings(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.property(name).unwrap_or(&[]);
        core::iter::from_fn(move || {
            let end = rest.iter().position(|&byte| byte == 0)?;
            let text = core::str::from_utf8(&rest[..end]).ok()?;
            rest = &rest[end + 1..];
            Some(text)
        })
    }

    /// A property of one cell.
    pub fn cell(&self, name: &str) -> Option<u32> {
        self.cells(name)?.next()
    }

    /// A property of one or two cells.
    pub fn number(&self, name: &str) -> Option<u64> {
        let mut cells = self.cells(name)?;
        let len = cells.len();
        if len == 0 { None } else { cells.take(len) }
    }

    /// Whether it is compatible with one of `names`.
    pub fn is_compatible(&self, names: &[&str]) -> bool {
        self.strings("compatible").any(|own| names.contains(&own))
    }

    /// Whether neither it nor a parent says that it is disabled.
    pub fn is_enabled(&self) -> bool {
        self.upward().all(|place| matches!(place.text("status"), None | Some("okay" | "ok")))
    }

    /// What others call it.
    pub fn phandle(&self) -> Option<Phandle> {
        self.cell("phandle").or_else(|| self.cell("linux,phandle")).map(Phandle)
    }

    /// Cells in an address of its children.
    pub fn address_cells(&self) -> usize {
        self.cell("#address-cells").unwrap_or(2) as usize
    }

    /// Cells in a length of its children.
    pub fn size_cells(&self) -> usize {
        self.cell("#size-cells").unwrap_or(1) as usize
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.depth == 0 {
            return f.write_str("/");
        }
        let mut left = SHOWN;
        self.path.iter().skip(1).flatten().try_for_each(|node| {
            let name = node.name();
            let shown = &name[..name.floor_char_boundary(left)];
            left -= shown.len();
            write!(f, "/{shown}")
        })
    }
}

/// Big-endian 32-bit cells, read from the front.
#[derive(Clone, Debug)]
pub struct Cells<'a>(&'a [[u8; 4]]);

impl<'a> Cells<'a> {
    /// The cells that are left.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next cell.
    pub fn next(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*first))
    }

    /// The next `count` cells as one number, 0 for no cells. `None` when there are fewer, or when the number does not
    /// fit 64 bits.
    pub fn take(&mut self, count: usize) -> Option<u64> {
        let mut number = 0u64;
        for _ in 0..count {
            let cell = self.next()?;
            number = number.checked_mul(1 << 32)? | u64::from(cell);
        }
        Some(number)
    }

    /// The next `count` cells as cells of their own.
    pub fn split(&mut self, count: usize) -> Option<Self> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(Self(front))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Tree, fixture};
    use super::*;

    fn cells(values: &[u32]) -> Vec<[u8; 4]> {
        values.iter().map(|value| value.to_be_bytes()).collect()
    }

    #[test]
    fn numbers_are_made_of_cells() {
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
        let tree = Tree::new(&blob).unwrap();
        assert!(!tree.find("/intc/its").unwrap().is_enabled());
        assert!(tree.find("/timer").unwrap().is_enabled());
    }

    #[test]
    fn strings_end_where_they_stop_being_text() {
        let mut model = fixture::virt();
        model.root.add_property(fixture::bytes("odd", b"one\0two\0\xff\0three\0"));
        model.root.add_property(fixture::bytes("open", b"no end"));
        let blob = model.to_dtb();
        let root = Tree::new(&blob).unwrap().root();
        assert_eq!(root.strings("odd").collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!((root.text("open"), root.text("none"), root.cells("open").is_none()), (None, None, true));
    }
}
