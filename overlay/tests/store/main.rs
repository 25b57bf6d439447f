//! What a store keeps, whatever happens to its disk.

mod damage;
mod disk;
mod faults;
