//! More than one region: the changes of the map in each region's store, and the stores by which operators move homes.
//!
//! What operators do with them is in [`Operator::regions`](crate::Operator::regions),
//! [`lose_region`](crate::Operator::lose_region) and [`bring_region_back`](crate::Operator::bring_region_back).

mod log;
mod stores;

use self::log::Had;
pub use self::log::{Log, LogError};
pub use self::stores::Regions;
pub(crate) use self::stores::{Found, Stores, check_map};
