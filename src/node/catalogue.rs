//! The tools that this device offers.
