//! Runs what `overlay-proto` decides on real sockets, threads and clocks.

pub mod capture;
pub mod clock;
pub mod datakey;
pub mod dataplane;
pub mod documented;
pub mod drops;
pub mod duration;
pub mod exit;
pub mod host;
pub mod keyfile;
pub mod local;
pub mod log;
pub mod manual;
pub mod meter;
pub mod notify;
pub mod output;
pub mod p2p;
pub mod ports;
pub mod preflight;
pub mod records;
pub mod signals;
pub mod state;
pub mod store;
pub mod udp;
