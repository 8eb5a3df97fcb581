//! The pages of a memory object by their number.

use abi::Errno;
use alloc::vec::Vec;
use core::ops::Range;

/// The bits of a page number that a node decodes.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;

/// A sparse array of pages: a radix tree, whose nodes exist only where there are pages. Unlike the maps of
/// `alloc`, it reports that memory is exhausted.
#[derive(Debug)]
pub struct PageIndex<T> {
    /// `None` without pages.
    root: Option<IndexNode<T>>,
    /// The number of levels of the tree.
    height: u32,
    len: u64,
}

#[derive(Debug)]
struct IndexNode<T> {
    /// Always [`SLOTS`].
    slots: Vec<Slot<T>>,
    /// The number of slots that are not empty.
    used: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Empty,
    Node(IndexNode<T>),
    Page(T),
}

impl<T> IndexNode<T> {
    fn new() -> Result<Self, Errno> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(SLOTS).map_err(|_| Errno::ENOMEM)?;
        slots.resize_with(SLOTS, || Slot::Empty);
        Ok(Self { slots, used: 0 })
    }

    fn set(&mut self, slot: usize, content: Slot<T>) {
        self.slots[slot] = content;
        self.used += 1;
    }

    /// Stores a page in this node of the given level, and creates the nodes below it.
    fn insert(&mut self, level: u32, index: u64, page: T) -> Result<(), Errno> {
        let slot = slot_of(level, index);
        if level == 0 {
            debug_assert!(matches!(self.slots[slot], Slot::Empty), "page {index} exists");
            self.set(slot, Slot::Page(page));
            return Ok(());
        }
        if let Slot::Node(node) = &mut self.slots[slot] {
            return node.insert(level - 1, index, page);
        }
        let mut node = Self::new()?;
        node.insert(level - 1, index, page)?;
        self.set(slot, Slot::Node(node));
        Ok(())
    }

    /// Removes the first page of `range`, of which the node has a part, and the nodes that become empty.
    fn remove_first(&mut self, level: u32, range: &Range<u64>) -> Option<(u64, T)> {
        let first = slot_of(level, range.start);
        let prefix = range.start & !mask(level);
        for slot in first..SLOTS {
            let start = prefix | (slot as u64) << (BITS * level);
            if start >= range.end {
                break;
            }
            let removed = match &mut self.slots[slot] {
                Slot::Empty => continue,
                Slot::Page(_) => match core::mem::replace(&mut self.slots[slot], Slot::Empty) {
                    Slot::Page(page) => Some((start, page)),
                    _ => None,
                },
                Slot::Node(node) => {
                    let removed = node.remove_first(level - 1, &(range.start.max(start)..range.end));
                    if node.used > 0 {
                        match removed {
                            Some(_) => return removed,
                            None => continue,
                        }
                    }
                    self.slots[slot] = Slot::Empty;
                    removed
                }
            };
            self.used -= 1;
            return removed;
        }
        None
    }

    fn first_from(&self, level: u32, from: u64) -> Option<u64> {
        let prefix = from & !mask(level);
        (slot_of(level, from)..SLOTS).find_map(|slot| {
            let start = prefix | (slot as u64) << (BITS * level);
            match &self.slots[slot] {
                Slot::Empty => None,
                Slot::Page(_) => Some(start),
                Slot::Node(node) => node.first_from(level - 1, from.max(start)),
            }
        })
    }
}

/// The slot of page `index` in a node of this level, counted from the pages up.
fn slot_of(level: u32, index: u64) -> usize {
    (index >> (BITS * level)) as usize % SLOTS
}

/// The bits of a page number that a node of this level and those below it decode.
fn mask(level: u32) -> u64 {
    (1u64 << (BITS * (level + 1))) - 1
}

impl<T: Copy> PageIndex<T> {
    /// The largest number of a page: of the last one below 2^63 bytes.
    pub const INDEX_MAX: u64 = (1 << 51) - 1;

    /// An array without pages.
    pub const fn new() -> Self {
        Self { root: None, height: 0, len: 0 }
    }

    /// The number of pages.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no pages.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The page with this number.
    pub fn get(&self, index: u64) -> Option<T> {
        let mut node = self.root.as_ref()?;
        let mut level = self.height - 1;
        if index > mask(level) {
            return None;
        }
        loop {
            match &node.slots[slot_of(level, index)] {
                Slot::Empty => return None,
                Slot::Page(page) => return Some(*page),
                Slot::Node(below) => {
                    node = below;
                    level -= 1;
                }
            }
        }
    }

    /// The number of the first page at or after `from`.
    pub fn first_from(&self, from: u64) -> Option<u64> {
        let root = self.root.as_ref()?;
        if from > mask(self.height - 1) { None } else { root.first_from(self.height - 1, from) }
    }

    /// Adds a page. `index` must be free, and at most [`INDEX_MAX`](Self::INDEX_MAX).
    ///
    /// # Errors
    /// `ENOMEM`; nothing is added.
    pub fn insert(&mut self, index: u64, page: T) -> Result<(), Errno> {
        debug_assert!(index <= Self::INDEX_MAX);
        if self.root.is_none() {
            self.root = Some(IndexNode::new()?);
            self.height = 1;
        }
        while index > mask(self.height - 1) {
            self.grow()?;
        }
        let Some(root) = &mut self.root else { return Err(Errno::ENOMEM) };
        root.insert(self.height - 1, index, page)?;
        self.len += 1;
        Ok(())
    }

    /// Adds a level above the root.
    fn grow(&mut self) -> Result<(), Errno> {
        let mut root = IndexNode::new()?;
        if let Some(below) = self.root.take().filter(|below| below.used > 0) {
            root.set(0, Slot::Node(below));
        }
        self.root = Some(root);
        self.height += 1;
        Ok(())
    }

    /// Removes the first page with a number in `range`, and returns it with its number.
    pub fn remove_first(&mut self, range: Range<u64>) -> Option<(u64, T)> {
        let root = self.root.as_mut()?;
        if range.is_empty() || range.start > mask(self.height - 1) {
            return None;
        }
        let removed = root.remove_first(self.height - 1, &range)?;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::new();
        }
        Some(removed)
    }
}

impl<T: Copy> Default for PageIndex<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn indices() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..200, 4000u64..4200, (0u32..51).prop_map(|bit| 1 << bit), Just((1 << 51) - 1)]
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "minutes of safe code")]
        fn pages_match_a_model(
            steps in prop::collection::vec((any::<bool>(), indices(), indices()), 1..200),
        ) {
            let (mut pages, mut model) = (PageIndex::new(), BTreeMap::new());
            for (n, (is_insert, one, other)) in steps.into_iter().enumerate() {
                if is_insert && !model.contains_key(&one) {
                    prop_assert_eq!(pages.insert(one, n), Ok(()));
                    model.insert(one, n);
                } else if !is_insert {
                    let range = one.min(other)..one.max(other);
                    let expected = model.range(range.clone()).next().map(|(&index, &page)| (index, page));
                    prop_assert_eq!(pages.remove_first(range), expected);
                    expected.and_then(|(index, _)| model.remove(&index));
                }
                prop_assert_eq!(pages.len(), model.len() as u64);
                prop_assert_eq!(pages.is_empty(), pages.root.is_none());
                for index in [one, other, one + 1] {
                    prop_assert_eq!(pages.get(index), model.get(&index).copied());
                    prop_assert_eq!(pages.first_from(index), model.range(index..).next().map(|(&index, _)| index));
                }
            }
            while let Some((index, page)) = pages.remove_first(0..u64::MAX) {
                prop_assert_eq!(model.pop_first(), Some((index, page)));
            }
            prop_assert!(model.is_empty() && pages.root.is_none());
        }
    }

    #[test]
    fn last_page_below_two_to_the_63_bytes_is_stored() {
        let mut pages = PageIndex::new();
        let last = PageIndex::<u8>::INDEX_MAX;
        pages.insert(last, 'a').unwrap();
        assert_eq!((pages.get(last), pages.get(0), pages.first_from(1)), (Some('a'), None, Some(last)));
        assert_eq!(pages.remove_first(0..last), None);
        assert_eq!(pages.remove_first(0..last + 1), Some((last, 'a')));
        assert!(pages.is_empty());
    }
}
