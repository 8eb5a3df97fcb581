//! Allocation of a number of frames as chunks: largest order first, highmem first, single frames when memory
//! is fragmented.

use crate::frames::{Frames, OutOfHeap};
use crate::owned::{OwnedChunk, OwnedPages};
use crate::source::{FrameSource, Reach};
use addr::Order;

/// A request for frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The number of frames.
    pub frames: u64,
    /// The largest order of a chunk.
    pub largest: Order,
    /// Whether the frames must be contiguous. `largest` is ignored then.
    pub contiguous: bool,
    /// The zones and addresses allowed.
    pub reach: Reach<'a>,
}

impl Request<'_> {
    /// A request for `frames` frames without constraints.
    pub const fn new(frames: u64) -> Self {
        Self { frames, largest: Order::MAX, contiguous: false, reach: Reach::ANYWHERE }
    }

    /// The order of the request, if [`alloc()`] first tries a single chunk of exactly that size.
    #[inline]
    pub const fn one_chunk(&self) -> Option<Order> {
        match Order::fitting(self.frames) {
            Some(order) if order.frames() != self.frames => None,
            Some(order) if order.log2() > self.largest.log2() && !self.contiguous => None,
            order => order,
        }
    }
}

/// The reason of a failed allocation. The source is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkError {
    /// A request for 0 frames.
    Nothing,
    /// A contiguous run longer than the largest chunk.
    TooLong {
        /// The number of frames requested.
        wanted: u64,
    },
    /// Too few free frames within the reach, or no contiguous run.
    OutOfFrames {
        /// The number of frames requested.
        wanted: u64,
        /// The number of frames found before the search ended.
        had: u64,
    },
    /// The heap has no room for the list of chunks.
    OutOfHeap,
}

impl From<OutOfHeap> for ChunkError {
    fn from(_: OutOfHeap) -> Self {
        Self::OutOfHeap
    }
}

/// Allocates frames.
///
/// The chunks are in descending order of size, so that each is naturally aligned within the buffer too: a
/// mapping that starts at a multiple of the largest chunk can use a block for every chunk that is large
/// enough.
///
/// 1. Zone by zone, highmem first: a small chunk of highmem is preferred to a large one of lowmem.
/// 2. Within a zone from the largest order down: each order fails at most once.
/// 3. The chunks of the zones are merged by order.
///
/// # Errors
/// See [`ChunkError`]; all frames are freed to `source` again.
pub fn alloc(source: &mut impl FrameSource, request: &Request<'_>) -> Result<Frames, ChunkError> {
    let mut frames = Frames::new();
    alloc_into(source, request, &mut frames)?;
    Ok(frames)
}

/// [`alloc()`] into an existing list: moving a list costs more than a short search.
///
/// # Errors
/// As [`alloc()`]; the list is empty.
pub fn alloc_into(
    source: &mut impl FrameSource,
    request: &Request<'_>,
    list: &mut Frames,
) -> Result<(), ChunkError> {
    debug_assert!(list.is_empty());
    if request.frames == 0 {
        return Err(ChunkError::Nothing);
    }
    if request.contiguous {
        return alloc_run(source, request, list);
    }
    alloc_from(source, request.reach.preferred(), request.frames, request.largest, list)?;
    if list.frames() < request.frames && request.reach.has_fallback() {
        alloc_more(source, request.reach, request.frames - list.frames(), request.largest, list)?;
    }
    if list.frames() == request.frames {
        return Ok(());
    }
    let had = list.frames();
    list.free_to(source);
    Err(ChunkError::OutOfFrames { wanted: request.frames, had })
}

/// Allocates up to `wanted` frames within `reach` into an empty list. After an error it is empty again.
fn alloc_from(
    source: &mut impl FrameSource,
    reach: Reach<'_>,
    wanted: u64,
    largest: Order,
    list: &mut Frames,
) -> Result<(), OutOfHeap> {
    let mut limit = Some(largest);
    while let Some(order) = limit.and_then(|limit| Some(limit.min(Order::fitting(wanted - list.frames())?))) {
        if limit == Some(Order::PAGE) {
            return alloc_pages(source, reach, wanted, list);
        }
        match source.alloc(order, reach) {
            Some(chunk) => push(source, list, chunk)?,
            None => limit = order.smaller(),
        }
    }
    Ok(())
}

/// The rest of [`alloc_from`], once only single frames are left or requested.
fn alloc_pages(
    source: &mut impl FrameSource,
    reach: Reach<'_>,
    wanted: u64,
    list: &mut Frames,
) -> Result<(), OutOfHeap> {
    while wanted > list.frames() {
        let count = (wanted - list.frames()).min(OwnedPages::RUN) as u32;
        let Some(pages) = source.alloc_pages(count, reach) else { break };
        list.push_pages(pages).map_err(|(rest, error)| {
            source.free_pages(rest);
            list.free_to(source);
            error
        })?;
    }
    Ok(())
}

/// [`alloc_from`], merged with the chunks in the list.
fn alloc_more(
    source: &mut impl FrameSource,
    reach: Reach<'_>,
    wanted: u64,
    largest: Order,
    list: &mut Frames,
) -> Result<(), OutOfHeap> {
    let mut found = Frames::new();
    if let Err(error) = alloc_from(source, reach, wanted, largest, &mut found) {
        list.free_to(source);
        return Err(error);
    }
    *list = merge(source, core::mem::take(list), found)?;
    Ok(())
}

/// Appends the chunk, or frees all.
fn push(source: &mut impl FrameSource, list: &mut Frames, chunk: OwnedChunk) -> Result<(), OutOfHeap> {
    list.push(chunk).map_err(|(chunk, error)| {
        source.free(chunk);
        list.free_to(source);
        error
    })
}

/// Merges two lists in descending order.
fn merge(source: &mut impl FrameSource, mut a: Frames, mut b: Frames) -> Result<Frames, OutOfHeap> {
    if a.is_empty() {
        return Ok(b);
    }
    if b.is_empty() {
        return Ok(a);
    }
    let (mut a, mut b) = (a.drain().peekable(), b.drain().peekable());
    let mut merged = Frames::new();
    let mut result = Ok(());
    loop {
        let from_a = match (a.peek(), b.peek()) {
            (Some(a), Some(b)) => a.chunk().order() >= b.chunk().order(),
            (a, _) => a.is_some(),
        };
        let Some(chunk) = (if from_a { a.next() } else { b.next() }) else { break };
        match result {
            Ok(()) => result = push(source, &mut merged, chunk),
            Err(_) => source.free(chunk),
        }
    }
    result.map(|()| merged)
}

/// Allocates a contiguous run: the chunk that covers it, without the frames after its end.
fn alloc_run(
    source: &mut impl FrameSource,
    request: &Request<'_>,
    list: &mut Frames,
) -> Result<(), ChunkError> {
    let wanted = request.frames;
    let order = Order::covering(wanted).ok_or(ChunkError::TooLong { wanted })?;
    let cover = source.alloc(order, request.reach).ok_or(ChunkError::OutOfFrames { wanted, had: 0 })?;
    let (run, tail) = cover.split_at(wanted);
    tail.for_each(|part| source.free(part));
    let mut result = Ok(());
    for part in run {
        match result {
            Ok(()) => result = push(source, list, part),
            Err(_) => source.free(part),
        }
    }
    Ok(result?)
}
