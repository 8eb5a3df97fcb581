//! Numbers that are random enough, and the same for the same seed.

/// A xorshift generator.
pub struct Rng(u64);

impl Rng {
    /// Another sequence for each seed.
    pub fn new(seed: u64) -> Self {
        // No seed makes it 0, from which it would not move.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
