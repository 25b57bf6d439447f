//! Link-local addresses that guests of this host took: told by the sending half of the data plane,
//! where guests speak, to the receiving one, where members could claim the same.
//!
//! Claims are rare: a station has four addresses, and another one after minutes. So the receiving
//! half looks at one flag a turn, and the lock is taken only when there is something to fetch.

use std::net::Ipv6Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use vde_switch::link_local::LINK_LOCAL_MAX;
use vde_switch::mac::MacAddr;

use crate::peer::lock;
use crate::peers::LOCAL_PORTS_MAX;

/// Most claims that wait: all that one station a port can make. When full, the oldest is lost.
pub const CLAIMS_MAX: usize = LOCAL_PORTS_MAX as usize * LINK_LOCAL_MAX;

/// See the module's description.
#[derive(Debug, Default)]
pub struct Claims {
    told: AtomicBool,
    waiting: Mutex<Vec<(Ipv6Addr, MacAddr)>>,
}

impl Claims {
    /// Leaves a claim for the receiving half.
    pub fn tell(&self, address: Ipv6Addr, mac: MacAddr) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == CLAIMS_MAX {
            waiting.remove(0);
        }
        waiting.push((address, mac));
        self.told.store(true, Ordering::Release);
    }

    /// Fetches what was left since it was asked last, oldest first.
    pub fn take(&self) -> Vec<(Ipv6Addr, MacAddr)> {
        if self.told.load(Ordering::Relaxed) && self.told.swap(false, Ordering::Acquire) {
            std::mem::take(&mut lock(&self.waiting))
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_fetched_once_in_order_and_bounded() {
        let (claims, mac) = (Claims::default(), MacAddr([2; 6]));
        assert_eq!(claims.take(), []);
        let address = |n: usize| Ipv6Addr::from_bits(n as u128);
        for n in 0..CLAIMS_MAX + 3 {
            claims.tell(address(n), mac);
        }
        let taken = claims.take();
        assert_eq!(taken.len(), CLAIMS_MAX);
        assert_eq!(taken[0], (address(3), mac));
        assert_eq!(claims.take(), []);
    }
}
