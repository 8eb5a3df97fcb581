//! `O_PATH`: a descriptor that names a node.

use super::File;

/// A file without operations: they are `EBADF` for its descriptor.
pub struct PathOnly;

impl File for PathOnly {}
