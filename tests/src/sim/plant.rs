//! Bugs that are planted to see whether the invariants catch them. None of them is in a core: each
//! changes what is handed to or from one.

/// One planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The gateway answers a join without writing its records first.
    ForgetsToWrite,
    /// The gateway's and members' data planes are never told that a member is gone.
    KeepsMembers,
    /// A member's data plane is told that its life has no end.
    LivesForever,
    /// A member's clock stands still while its host sleeps, as CLOCK_MONOTONIC does.
    ClockSleeps,
    /// A receiver takes a sender for another station, too.
    ForeignStation,
    /// The engine opens what it has opened before.
    TakesReplays,
    /// A member's view of the roster is made anew for each roster that comes.
    OldRosters,
    /// The gateway hands group frames on twice.
    HandsOnTwice,
    /// The gateway believes that a wall clock never steps: it lets members back in by the ticket
    /// of an evicted one.
    ForgetsEvictions,
    /// Frames of one order are read by another's data plane.
    MixesOrders,
    /// A member never joins again after it has lost its gateway.
    GivesUp,
    /// A frame vanishes between switch and attachment.
    LosesFrames,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ForgetsToWrite,
        Self::KeepsMembers,
        Self::LivesForever,
        Self::ClockSleeps,
        Self::ForeignStation,
        Self::TakesReplays,
        Self::OldRosters,
        Self::HandsOnTwice,
        Self::ForgetsEvictions,
        Self::MixesOrders,
        Self::GivesUp,
        Self::LosesFrames,
    ];
}
