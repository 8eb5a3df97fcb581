//! Random bytes for programs: ChaCha20 (RFC 8439), keyed by the CPU's generator, the boot loader's seed and
//! the counter. With the counter alone the bytes differ from boot to boot, but are not secret.

use crate::sync::SpinLock;

static GENERATOR: SpinLock<Generator> = SpinLock::new(Generator { key: [0; 8], blocks: 0 });

struct Generator {
    key: [u32; 8],
    /// The number of blocks generated, which is the block counter.
    blocks: u64,
}

/// Mixes a secret seed (`/chosen/rng-seed`) into the key.
pub fn seed(bytes: &[u8]) {
    GENERATOR.lock().seed(bytes);
}

/// Fills `out` with random bytes.
pub fn fill(out: &mut [u8]) {
    GENERATOR.lock().fill(out);
}

/// Returns random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill(&mut out);
    out
}

impl Generator {
    fn seed(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(32) {
            for (word, part) in self.key.iter_mut().zip(chunk.chunks(4)) {
                *word ^= part.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
            }
            self.rekey();
        }
    }

    fn fill(&mut self, out: &mut [u8]) {
        self.reseed();
        for part in out.chunks_mut(64) {
            let block = self.next_block();
            part.copy_from_slice(&block[..part.len()]);
        }
        // Forward secrecy: earlier output cannot be computed from a later state.
        self.rekey();
    }

    fn reseed(&mut self) {
        let sources = [arch::timer::now(), arch::cpu::random().unwrap_or(0)];
        for (pair, source) in self.key.chunks_mut(2).zip(sources) {
            pair[0] ^= source as u32;
            pair[1] ^= (source >> 32) as u32;
        }
    }

    fn next_block(&mut self) -> [u8; 64] {
        self.blocks += 1;
        block(&self.key, self.blocks)
    }

    /// Replaces the key by output under the old one.
    fn rekey(&mut self) {
        let block = self.next_block();
        for (word, part) in self.key.iter_mut().zip(block.chunks(4)) {
            *word = part.iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
        }
    }
}

/// Returns block `counter` under `key`, with a nonce of zeroes.
fn block(key: &[u32; 8], counter: u64) -> [u8; 64] {
    let mut start = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    start[4..12].copy_from_slice(key);
    (start[12], start[13]) = (counter as u32, (counter >> 32) as u32);
    permute(start)
}

fn permute(start: [u32; 16]) -> [u8; 64] {
    let mut state = start;
    for _ in 0..10 {
        for column in 0..4 {
            quarter(&mut state, [column, column + 4, column + 8, column + 12]);
        }
        for row in 0..4 {
            quarter(&mut state, [row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4]);
        }
    }
    let mut out = [0; 64];
    for (bytes, (word, first)) in out.chunks_mut(4).zip(state.iter().zip(start)) {
        bytes.copy_from_slice(&word.wrapping_add(first).to_le_bytes());
    }
    out
}

fn quarter(state: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
    for (add, to, bits) in [(b, a, 16), (d, c, 12), (b, a, 8), (d, c, 7)] {
        state[to] = state[to].wrapping_add(state[add]);
        // The rotated word alternates: d after a, b after c.
        let (rotated, by) = if to == a { (d, a) } else { (b, c) };
        state[rotated] = (state[rotated] ^ state[by]).rotate_left(bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn block_function_matches_rfc_8439() {
        // RFC 8439, 2.3.2: key 00 01 .. 1f, counter 1, nonce 00 00 00 09 00 00 00 4a 00 00 00 00.
        let mut start = [0; 16];
        start[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
        for (n, word) in start[4..12].iter_mut().enumerate() {
            *word = 0x0302_0100 + 0x0404_0404 * n as u32;
        }
        start[12..].copy_from_slice(&[1, 0x0900_0000, 0x4a00_0000, 0]);
        let out = permute(start);
        assert_eq!(out[..8], [0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15]);
        assert_eq!(out[60..], [0xa2, 0x50, 0x3c, 0x4e]);
    }

    #[test]
    fn successive_outputs_differ() {
        assert_ne!(bytes::<16>(), bytes::<16>());
        assert_ne!(bytes::<100>()[64..], [0; 36]);
    }

    fn output(generator: &mut Generator) -> [u8; 32] {
        let mut out = [0; 32];
        generator.fill(&mut out);
        out
    }

    #[test]
    fn earlier_output_is_not_computed_from_a_later_state() {
        let mut generator = Generator { key: [7; 8], blocks: 0 };
        let out = output(&mut generator);
        for counter in 0..=generator.blocks {
            assert_ne!(block(&generator.key, counter)[..32], out, "block {counter} under the new key");
        }
        let derived: Vec<u8> = generator.key.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_ne!(derived, out, "the key itself");
    }

    #[test]
    fn equal_states_give_different_output_at_different_times() {
        let new = || Generator { key: [7; 8], blocks: 0 };
        let first = output(&mut new());
        arch::fake::advance(1);
        assert_ne!(output(&mut new()), first);
    }

    /// Without a new key after each part, equal parts would cancel each other.
    #[test]
    fn all_parts_of_a_seed_and_their_order_count() {
        let seeded = |parts: &[u8]| {
            let mut generator = Generator { key: [7; 8], blocks: 0 };
            parts.iter().for_each(|&part| generator.seed(&[part; 32]));
            generator.key
        };
        let keys = [seeded(&[]), seeded(&[1]), seeded(&[1, 1]), seeded(&[1, 2]), seeded(&[2, 1])];
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "seed {n}");
        }
        let mut whole = Generator { key: [7; 8], blocks: 0 };
        whole.seed(&[[1; 32], [2; 32]].concat());
        assert_eq!(whole.key, keys[3], "in parts of 32 bytes");
    }

    #[test]
    fn blocks_differ_by_both_halves_of_the_counter() {
        let mut generator = Generator { key: [7; 8], blocks: 0 };
        let key = generator.key;
        let blocks = [generator.next_block(), generator.next_block(), block(&key, 1 << 32), block(&key, 0)];
        for (n, found) in blocks.iter().enumerate() {
            assert!(!blocks[..n].contains(found), "block {n}");
        }
    }
}
