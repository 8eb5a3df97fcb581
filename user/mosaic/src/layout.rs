//! Maps of the buffer in IOVA order (by offset, unless all of it is attached) and in physical address order.
//!
//! A cell is a range of addresses. Its letter (or colour) is the part of the buffer that occupies most of it;
//! lower case (or a lighter block) if the buffer occupies at most half of the range.

use abi::dma::{BufferChunk, NOT_ATTACHED};

use addr::Size;

const WIDTH: usize = 64;
/// The number of parts of the buffer with different letters.
const PARTS: u64 = 26;
/// The maximum number of lines of the physical map.
const LINES: u64 = 8;

/// A cell: the number of bytes of each part.
#[derive(Clone)]
struct Cell {
    bytes: [u64; PARTS as usize],
}

/// Draws both maps.
pub fn draw(chunks: &[BufferChunk], color: bool) -> String {
    let bytes: u64 = chunks.iter().map(|chunk| chunk.len).sum();
    let low = chunks.iter().map(|chunk| chunk.pa).min().unwrap_or(0);
    let high = chunks.iter().map(|chunk| chunk.pa + chunk.len).max().unwrap_or(0);
    let device_cell = bytes.div_ceil(WIDTH as u64).max(1);
    let ram_cell = (high - low)
        .div_ceil(WIDTH as u64 * LINES)
        .next_power_of_two()
        .max(device_cell.next_power_of_two() / 4);
    let first = low - low % ram_cell;
    let offsets = starts(chunks).zip(chunks);
    let by_device =
        cells(offsets.clone().map(|(at, chunk)| (at, at, chunk.len)), 0, device_cell, bytes, bytes);
    let by_ram = cells(offsets.map(|(at, chunk)| (chunk.pa, at, chunk.len)), first, ram_cell, high, bytes);
    let attached = chunks.iter().all(|chunk| chunk.iova != NOT_ATTACHED);
    let origin = chunks.first().filter(|_| attached).map_or(0, |chunk| chunk.iova);
    let order = if attached { "in IOVA order" } else { "by offset" };
    let mut text = format!("buffer {order}, one cell is {}:\n", Size(device_cell));
    text += &lines(&by_device, origin, device_cell, color);
    text += &format!("buffer in physical memory, one cell is {}:\n", Size(ram_cell));
    text += &lines(&by_ram, first, ram_cell, color);
    text
}

/// The offset of each chunk in the buffer.
fn starts(chunks: &[BufferChunk]) -> impl Iterator<Item = u64> + Clone {
    chunks.iter().scan(0, |next, chunk| {
        let start = *next;
        *next += chunk.len;
        Some(start)
    })
}

/// Distributes runs (address, buffer offset, length) over cells of `size` bytes from `first` to `end`.
fn cells(
    runs: impl Iterator<Item = (u64, u64, u64)>,
    first: u64,
    size: u64,
    end: u64,
    bytes: u64,
) -> Vec<Cell> {
    let part = bytes.div_ceil(PARTS).max(1);
    let mut cells = vec![Cell { bytes: [0; PARTS as usize] }; (end - first).div_ceil(size) as usize];
    for (mut at, mut offset, mut left) in runs {
        while left > 0 {
            let to_cell_end = size - (at - first) % size;
            let to_part_end = part - offset % part;
            let step = left.min(to_cell_end).min(to_part_end);
            cells[((at - first) / size) as usize].bytes[(offset / part) as usize] += step;
            (at, offset, left) = (at + step, offset + step, left - step);
        }
    }
    cells
}

fn lines(cells: &[Cell], first: u64, size: u64, color: bool) -> String {
    let mut text = String::new();
    for (n, row) in cells.chunks(WIDTH).enumerate() {
        let at = first + (n * WIDTH) as u64 * size;
        let drawn: String = row.iter().map(|cell| cell.drawn(size, color)).collect();
        let reset = if color { "\x1b[0m" } else { "" };
        text += &format!("  {at:#012x} {drawn}{reset}\n");
    }
    text
}

impl Cell {
    fn drawn(&self, size: u64, color: bool) -> String {
        let most =
            (0..PARTS as usize).max_by_key(|&part| (self.bytes[part], PARTS as usize - part)).unwrap_or(0);
        let filled: u64 = self.bytes.iter().sum();
        match (filled, color) {
            (0, false) => ".".into(),
            (0, true) => "\x1b[38;5;238m·".into(),
            (_, false) => letter(most, filled * 2 > size).into(),
            (_, true) => format!("\x1b[38;5;{}m{}", hue(most), if filled * 2 > size { '█' } else { '▒' }),
        }
    }
}

fn letter(part: usize, upper: bool) -> char {
    char::from(part as u8 + if upper { b'A' } else { b'a' })
}

/// A hue of the 6x6x6 colour cube of a 256-colour terminal: red, yellow, green, cyan, blue, magenta.
fn hue(part: usize) -> u32 {
    let (sector, step) = (part * 30 / PARTS as usize / 5, (part * 30 / PARTS as usize % 5) as u32);
    let (red, green, blue) = match sector {
        0 => (5, step, 0),
        1 => (5 - step, 5, 0),
        2 => (0, 5, step),
        3 => (0, 5 - step, 5),
        4 => (step, 0, 5),
        _ => (5, 0, 5 - step),
    };
    16 + 36 * red + 6 * green + blue
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four chunks of 64 KiB, in descending physical order with gaps.
    fn reversed() -> Vec<BufferChunk> {
        let at = |n: u64| BufferChunk {
            iova: 0x100_0000 + n * 0x1_0000,
            pa: 0x9000_0000 - n * 0x2_0000,
            len: 0x1_0000,
        };
        (0..4).map(at).collect()
    }

    #[test]
    fn iova_map_is_in_order_and_physical_map_is_not() {
        let text = draw(&reversed(), false);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows[0], "buffer in IOVA order, one cell is 4 KiB:");
        let device = rows[1].split_whitespace().last().unwrap();
        assert!(device.starts_with("AABBB") && device.ends_with("YYZZ"), "{device}");
        assert_eq!(device.len(), WIDTH);
        let ram: String = rows[3..].iter().map(|row| row.split_whitespace().last().unwrap()).collect();
        let (last, first) = (ram.find('Z').unwrap(), ram.find('A').unwrap());
        assert!(last < first && ram.contains('.'), "{ram}");
    }

    #[test]
    fn unattached_buffer_is_drawn_by_offset() {
        let chunks = reversed()
            .into_iter()
            .map(|chunk| BufferChunk { iova: NOT_ATTACHED, ..chunk })
            .collect::<Vec<_>>();
        assert!(draw(&chunks, false).contains("\n  0x0000000000 AABBB"));
    }

    #[test]
    fn every_byte_is_drawn_once() {
        let chunks = reversed();
        let runs = starts(&chunks).zip(&chunks).map(|(at, chunk)| (chunk.pa, at, chunk.len));
        let cells = cells(runs, 0x8ffa_0000, 0x3000, 0x9001_0000, 0x4_0000);
        let drawn: u64 = cells.iter().flat_map(|cell| cell.bytes).sum();
        assert_eq!(drawn, 0x4_0000);
    }

    #[test]
    fn half_empty_cells_are_lower_case() {
        let one = |filled| {
            let mut cell = Cell { bytes: [0; PARTS as usize] };
            cell.bytes[2] = filled;
            cell.drawn(100, false)
        };
        assert_eq!([0, 1, 50, 51, 100].map(one), [".", "c", "c", "C", "C"]);
    }

    #[test]
    fn hues_are_unique_cube_colours() {
        let hues: std::collections::BTreeSet<u32> = (0..PARTS as usize).map(hue).collect();
        assert_eq!(hues.len(), PARTS as usize);
        assert!(hues.iter().all(|hue| (16..232).contains(hue)));
        assert!(draw(&reversed(), true).contains("\x1b[38;5;196m█"));
    }
}
