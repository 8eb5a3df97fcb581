//! smmu-spec.
#![cfg_attr(not(test), no_std)]
