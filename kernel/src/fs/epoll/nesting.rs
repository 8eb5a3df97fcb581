//! Epoll instances that watch epoll instances: no cycles, and a limited depth.

use super::EpollId;
use crate::sync::SpinLock;
use abi::Errno;
use arrayvec::ArrayVec;

/// The maximum number of edges of a path, as in Linux (`EP_MAX_NESTS`).
const DEPTH_MAX: usize = 4;
/// The maximum number of edges of the system, which bounds the notifications that one event causes.
const EDGES_MAX: usize = 64;

static EDGES: SpinLock<Edges> = SpinLock::new(Edges(ArrayVec::new_const()));

/// Records that `outer` watches `inner`.
///
/// # Errors
/// `ELOOP`, `ENOSPC` if there are too many edges.
pub fn add(outer: EpollId, inner: EpollId) -> Result<(), Errno> {
    EDGES.lock().add(outer, inner)
}

/// Removes one edge.
pub fn remove(outer: EpollId, inner: EpollId) {
    EDGES.lock().remove(outer, inner);
}

/// The pairs of an instance and an instance that it watches.
struct Edges(ArrayVec<(EpollId, EpollId), EDGES_MAX>);

impl Edges {
    fn add(&mut self, outer: EpollId, inner: EpollId) -> Result<(), Errno> {
        let above = self.depth(outer, |&(upper, lower)| (lower, upper));
        let below = self.depth(inner, |&edge| edge);
        if outer == inner || self.reaches(inner, outer) || above + 1 + below > DEPTH_MAX {
            return Err(Errno::ELOOP);
        }
        self.0.try_push((outer, inner)).map_err(|_| Errno::ENOSPC)
    }

    fn remove(&mut self, outer: EpollId, inner: EpollId) {
        if let Some(at) = self.0.iter().position(|&edge| edge == (outer, inner)) {
            self.0.swap_remove(at);
        }
    }

    /// Returns the length of the longest path from `start` along the edges in a direction. There are no
    /// cycles, and no path is longer than [`DEPTH_MAX`].
    fn depth(&self, start: EpollId, direct: fn(&(EpollId, EpollId)) -> (EpollId, EpollId)) -> usize {
        let next = self.0.iter().map(direct).filter(|(from, _)| *from == start);
        next.map(|(_, to)| 1 + self.depth(to, direct)).max().unwrap_or(0)
    }

    fn reaches(&self, from: EpollId, to: EpollId) -> bool {
        from == to || self.0.iter().any(|&(outer, inner)| outer == from && self.reaches(inner, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(all: &[(EpollId, EpollId)]) -> Edges {
        let mut edges = Edges(ArrayVec::new());
        all.iter().for_each(|&(outer, inner)| edges.add(outer, inner).unwrap());
        edges
    }

    #[test]
    fn cycles_are_refused() {
        let mut edges = edges(&[(1, 2), (2, 3), (4, 2)]);
        for (outer, inner) in [(1, 1), (2, 1), (3, 1), (3, 4)] {
            assert_eq!(edges.add(outer, inner), Err(Errno::ELOOP), "{outer} watches {inner}");
        }
        assert_eq!(edges.add(1, 4), Ok(()));
        edges.remove(2, 3);
        assert_eq!(edges.add(3, 1), Ok(()));
    }

    #[test]
    fn paths_have_at_most_four_edges() {
        let mut edges = edges(&[(1, 2), (2, 3), (3, 4), (4, 5)]);
        for (outer, inner) in [(5, 6), (0, 1)] {
            assert_eq!(edges.add(outer, inner), Err(Errno::ELOOP), "{outer} watches {inner}");
        }
        assert_eq!(edges.add(3, 6), Ok(()));
        edges.remove(2, 3);
        assert_eq!(edges.add(0, 1), Ok(()));
        assert_eq!(edges.add(1, 3), Ok(()));
        assert_eq!(edges.add(2, 3), Err(Errno::ELOOP), "0, 1, 2, 3, 4, 5");
    }

    #[test]
    fn number_of_edges_is_limited() {
        let mut edges = edges(&[]);
        for inner in 1..=EDGES_MAX as EpollId {
            assert_eq!(edges.add(0, inner), Ok(()));
        }
        assert_eq!(edges.add(0, 1), Err(Errno::ENOSPC));
        edges.remove(0, 7);
        assert_eq!(edges.add(0, 1), Ok(()));
    }
}
