//! What the tests of the engine and of the HTTP layer share.

#![allow(dead_code, reason = "each suite uses a part of it")]

pub(crate) mod faulty;

pub(crate) use testing_contract::{Gate, until};
