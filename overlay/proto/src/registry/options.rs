//! What the buyer may change about an order.

use std::net::IpAddr;

use vde_switch::station::Broadcast;

use super::{OrderRecord, Record, Registry};
use crate::control::Limits;
use crate::envelope::Signed;
use crate::grant::{LIFE_MAX_S, LIFE_MIN_S};
use crate::order::{GuestsError, MTU_MAX, MTU_MIN, Route, check_guests};
use crate::ticket::{ADDRESSES_MAX, DialAddr};

/// Options to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// MTU of all stations.
    pub mtu: Option<u16>,
    /// Whether group traffic is carried.
    pub broadcast: Option<Broadcast>,
    /// What each guest may send.
    pub limits: Option<Limits>,
    /// Life of grants, in seconds.
    pub life_s: Option<u16>,
    /// DNS servers that guests are told; empty for none.
    pub dns: Option<Vec<IpAddr>>,
    /// Routes that guests are told; empty for none.
    pub routes: Option<Vec<Route>>,
}

impl Registry {
    /// Sets where the gateway is reached; returns what to write.
    pub fn set_reach(
        &mut self,
        addresses: Vec<DialAddr>,
        relays: Vec<DialAddr>,
        port: u16,
    ) -> Vec<Record> {
        let mut order = OrderRecord { addresses, relays, port, ..self.order.clone() };
        order.addresses.truncate(ADDRESSES_MAX);
        order.relays.truncate(ADDRESSES_MAX);
        let said = order.relays != self.order.relays;
        self.set_order(order, said)
    }

    /// Changes options; members hear of it by a new config, and ask for the grants that go with it.
    /// Returns what to write: nothing if all was so already.
    ///
    /// # Errors
    /// [`SetError`]; nothing changed then.
    pub fn set(&mut self, options: &Options) -> Result<Vec<Record>, SetError> {
        let mtu = options.mtu.unwrap_or(self.order.mtu);
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(SetError::Mtu(mtu));
        }
        let life_s = options.life_s.unwrap_or(self.order.life_s);
        if !(LIFE_MIN_S..=LIFE_MAX_S).contains(&life_s) {
            return Err(SetError::Life(life_s));
        }
        let order = OrderRecord {
            mtu,
            life_s,
            broadcast: options.broadcast.unwrap_or(self.order.broadcast),
            limits: options.limits.unwrap_or(self.order.limits),
            dns: options.dns.clone().unwrap_or_else(|| self.order.dns.clone()),
            routes: options.routes.clone().unwrap_or_else(|| self.order.routes.clone()),
            ..self.order.clone()
        };
        check_guests(&order.segment(), &order.dns, &order.routes)?;
        Ok(self.set_order(order, true))
    }

    /// Takes a changed order; `said` if members are to hear of it.
    fn set_order(&mut self, mut order: OrderRecord, said: bool) -> Vec<Record> {
        if order == self.order {
            return Vec::new();
        }
        if said {
            order.config_version += 1;
            self.version += 1;
        }
        if let Some(config) = order.config() {
            self.config = Signed::seal(&self.key, config);
        }
        self.order = order;
        vec![Record::Order(self.order.clone())]
    }
}

/// Why options stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Such an MTU.
    #[error("an MTU of {0} is not within {MTU_MIN} to {MTU_MAX}")]
    Mtu(u16),
    /// Grants that live too shortly or too long.
    #[error("a life of {0} s is not within {LIFE_MIN_S} to {LIFE_MAX_S} s")]
    Life(u16),
    /// What guests cannot be told.
    #[error(transparent)]
    Guests(#[from] GuestsError),
}
