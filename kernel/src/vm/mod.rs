//! User address spaces: VMAs, page faults, pinned pages, ASIDs, and user copies.

pub mod access;
pub mod address_space;
mod asid;
pub mod huge_pages;
pub mod pages;
pub mod registers;
pub mod shared_memory;
