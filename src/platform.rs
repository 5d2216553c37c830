//! What only one kind of operating system has.
