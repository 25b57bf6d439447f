//! What is asked of the host the program runs on: its routes, its addresses, its packet filter.

pub mod addresses;
pub mod filter;
pub mod guard;
pub mod nft;
pub mod routes;
