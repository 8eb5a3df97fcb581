//! `futex(2)`: the operations that threads of one program need.

/// Sleep while the word has the given value.
pub const FUTEX_WAIT: u32 = 0;
/// Wake up to so many sleepers.
pub const FUTEX_WAKE: u32 = 1;
/// Wake some, move the rest to another word.
pub const FUTEX_REQUEUE: u32 = 3;
/// The same, if the word still has the given value.
pub const FUTEX_CMP_REQUEUE: u32 = 4;
/// Sleep until a point in time, woken by a wake whose bits meet ours.
pub const FUTEX_WAIT_BITSET: u32 = 9;
/// Wake those whose bits meet ours.
pub const FUTEX_WAKE_BITSET: u32 = 10;
/// The operation without its flags.
pub const FUTEX_CMD_MASK: u32 = 0x7f;
/// Flag: the word is this program's alone.
pub const FUTEX_PRIVATE_FLAG: u32 = 128;
/// Bits that meet every other.
pub const FUTEX_BITSET_MATCH_ANY: u32 = u32::MAX;
