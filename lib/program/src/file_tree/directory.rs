//! The entries of a directory.

use super::NodeId;
use abi::Errno;
use alloc::vec::Vec;

/// Entries by name, and in the order of their creation, by which `getdents64` lists them: the position of an
/// entry does not change while others are added and removed.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// In ascending order of their positions.
    entries: Vec<DirectoryEntry>,
    /// The positions in ascending order of the names.
    by_name: Vec<u64>,
    next_position: u64,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryEntry {
    /// The position in the directory.
    pub position: u64,
    /// The name.
    pub name: Vec<u8>,
    /// The node.
    pub node: NodeId,
}

impl Directory {
    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The node with this name.
    pub fn get(&self, name: &[u8]) -> Option<NodeId> {
        let slot = self.slot_of(name).ok()?;
        Some(self.entries[self.index_of(self.by_name[slot])].node)
    }

    /// The entries from `position` on, in ascending order of their positions.
    pub fn entries_from(&self, position: u64) -> &[DirectoryEntry] {
        &self.entries[self.index_of(position)..]
    }

    /// The name of `node`, one of them if it has several.
    pub(super) fn name_of(&self, node: NodeId) -> Option<&[u8]> {
        self.entries.iter().find(|entry| entry.node == node).map(|entry| &*entry.name)
    }

    /// Sets the node with this name, and returns the previous one.
    ///
    /// # Errors
    /// `ENOMEM`; never for an existing name.
    pub(super) fn insert(&mut self, name: &[u8], node: NodeId) -> Result<Option<NodeId>, Errno> {
        let slot = match self.slot_of(name) {
            Ok(slot) => {
                let index = self.index_of(self.by_name[slot]);
                return Ok(Some(core::mem::replace(&mut self.entries[index].node, node)));
            }
            Err(slot) => slot,
        };
        let mut owned = Vec::new();
        let reserved = owned
            .try_reserve_exact(name.len())
            .and_then(|()| self.entries.try_reserve(1))
            .and_then(|()| self.by_name.try_reserve(1));
        reserved.map_err(|_| Errno::ENOMEM)?;
        owned.extend(name);
        self.by_name.insert(slot, self.next_position);
        self.entries.push(DirectoryEntry { position: self.next_position, name: owned, node });
        self.next_position += 1;
        Ok(None)
    }

    /// Removes an entry, and returns its node.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<NodeId> {
        let slot = self.slot_of(name).ok()?;
        let position = self.by_name.remove(slot);
        let index = self.index_of(position);
        Some(self.entries.remove(index).node)
    }

    /// The slot of `name` in `by_name`, or the one that it would have.
    fn slot_of(&self, name: &[u8]) -> Result<usize, usize> {
        self.by_name.binary_search_by(|&position| (*self.entries[self.index_of(position)].name).cmp(name))
    }

    fn index_of(&self, position: u64) -> usize {
        self.entries.partition_point(|entry| entry.position < position)
    }
}
