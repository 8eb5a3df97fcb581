//! The scope of a TLB invalidation, used by `tlb` and by the host log.

/// The levels of cached translations to be invalidated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// All levels: required after a change of a table descriptor, before the table is freed.
    Any,
    /// The last level: sufficient if only page or block descriptors changed.
    Last,
}
