//! The current directory and the mode mask of a process.

use super::root::{self, NodeRef, Tree};
use crate::sched::Mutex;
use abi::Errno;
use core::sync::atomic::{AtomicU32, Ordering};
use program::NodeId;

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
        let directory =
            self.directory.lock().as_ref().map(|directory| reference(directory.id())).transpose()?;
        Ok(Self {
            directory: Mutex::new(directory),
            mode_mask: AtomicU32::new(self.mode_mask.load(Ordering::Relaxed)),
        })
    }

    /// Returns the current directory.
    ///
    /// # Errors
    /// Those of [`root::lock`].
    pub fn directory(&self) -> Result<NodeRef, Errno> {
        let directory = self.directory.lock();
        reference(directory.as_ref().map_or(Tree::ROOT, NodeRef::id))
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
        mode & !self.mode_mask.load(Ordering::Relaxed)
    }

    /// `umask`: sets the mask, and returns the previous one.
    pub fn set_mode_mask(&self, mask: u32) -> u32 {
        self.mode_mask.swap(mask & 0o777, Ordering::Relaxed)
    }
}

/// Returns a reference to a node that the caller has a reference to.
fn reference(id: NodeId) -> Result<NodeRef, Errno> {
    Ok(NodeRef::new(&mut *root::lock()?, id))
}
