//! The current directory and the mode mask of a process.

use super::root::{self, FsNode, NodeRef};
use crate::sched::Mutex;
use abi::Errno;
use core::sync::atomic::{AtomicU32, Ordering};

/// What `chdir` and `umask` set.
pub struct FsContext {
    /// `None` is the root.
    directory: Mutex<Option<NodeRef>>,
    mode_mask: AtomicU32,
}

impl Default for FsContext {
    /// The root directory and the usual mask.
    fn default() -> Self {
        Self { directory: Mutex::new(None), mode_mask: AtomicU32::new(0o022) }
    }
}

impl FsContext {
    /// Returns a copy, for a new process.
    ///
    /// # Errors
    /// Those of [`root::lock`].
    pub fn copy(&self) -> Result<Self, Errno> {
        Ok(Self {
            directory: Mutex::new(Some(self.directory()?)),
            mode_mask: AtomicU32::new(self.mode_mask()),
        })
    }

    /// Returns the current directory.
    ///
    /// # Errors
    /// Those of [`root::lock`].
    pub fn directory(&self) -> Result<NodeRef, Errno> {
        let mut tree = root::lock()?;
        let directory = self.directory_node();
        Ok(NodeRef::new(&mut tree, directory))
    }

    /// Returns the current directory. Called with the tree locked.
    pub fn directory_node(&self) -> FsNode {
        self.directory.lock().as_ref().map_or(FsNode::ROOT, |directory| directory.node().clone())
    }

    /// Sets the current directory.
    pub fn set_directory(&self, directory: NodeRef) {
        let previous = self.directory.lock().replace(directory);
        drop(previous);
    }

    /// Gives up the current directory, for a process that has terminated.
    pub fn release(&self) {
        let previous = self.directory.lock().take();
        drop(previous);
    }

    /// Removes the masked bits of the mode of a new file.
    pub fn masked(&self, mode: u32) -> u32 {
        mode & !self.mode_mask()
    }

    /// Returns the mask.
    pub fn mode_mask(&self) -> u32 {
        self.mode_mask.load(Ordering::Relaxed)
    }

    /// `umask`: sets the mask, and returns the previous one.
    pub fn set_mode_mask(&self, mask: u32) -> u32 {
        self.mode_mask.swap(mask & 0o777, Ordering::Relaxed)
    }
}
