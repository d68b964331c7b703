//! The union of the claims of all services of a policy, which is the content of its kernel table.
//!
//! Owns the rule for two claims on one entry. Does not know what a service claims.

use super::tables::{Action, Claims, Delta, Table, Target, Transport};
use crate::sharing::share;
use egress_ebpf::addr::Addr;
use imbl::OrdMap;

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Holders {
    allow: u32,
    proxy: u32,
}

impl Holders {
    /// The count for a single claim.
    const fn one(action: Action) -> Self {
        match action {
            Action::Allow => Self { allow: 1, proxy: 0 },
            Action::Proxy => Self { allow: 0, proxy: 1 },
        }
    }

    const fn action(self) -> Option<Action> {
        match self {
            Self { proxy: 1.., .. } => Some(Action::Proxy),
            Self { allow: 1.., .. } => Some(Action::Allow),
            Self { .. } => None,
        }
    }

    const fn side(&mut self, action: Action) -> &mut u32 {
        match action {
            Action::Allow => &mut self.allow,
            Action::Proxy => &mut self.proxy,
        }
    }
}

/// Every claim of one policy, counted, so that one service can change without the others.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The action of each target. A target that is not in `several` has one claim.
    table: Table,
    /// Targets with more than one claim.
    several: OrdMap<Target, Holders>,
}

impl Ledger {
    /// Replaces one service's claims. Returns the changes of the table. `old` must be the claims that were given as
    /// `new` before.
    pub fn replace(&mut self, old: &Claims, new: &Claims) -> Delta {
        let came = new.iter().map(|(t, a)| (t, old.get(t), Some(a)));
        let left = old.iter().filter(|(t, _)| !new.contains_key(t));
        let left = left.map(|(t, a)| (t, Some(a), None));
        let changes = came.chain(left).filter(|(_, was, is)| was != is);
        let change = |(target, was, is): (&Target, Option<&Action>, Option<&Action>)| {
            let mut holders = self.holders(target);
            let before = holders.action();
            if let Some(was) = was {
                let side = holders.side(*was);
                *side = side.saturating_sub(1);
            }
            if let Some(is) = is {
                *holders.side(*is) += 1;
            }
            self.set(*target, before, holders);
            let after = holders.action();
            (before != after).then_some((*target, after))
        };
        changes.filter_map(change).collect()
    }

    /// The action for a target, if it is claimed.
    pub fn action(&self, target: &Target) -> Option<Action> {
        self.table.get(target).copied()
    }

    /// The claimed targets that cover a flow.
    pub fn covering(&self, addr: Addr, port: u16, via: Transport) -> Vec<Target> {
        let exact = Target::address(addr, port, via);
        let exact = Some(exact).filter(|target| self.table.contains_key(target));
        // Networks come before all single addresses.
        let networks = self.table.keys().take_while(|target| !target.is_exact());
        let networks = networks.filter(|target| target.covers(addr, port, via));
        networks.copied().chain(exact).collect()
    }

    /// The table as a whole.
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// Shares the parts that are equal in another ledger.
    pub(super) fn share(&mut self, other: &Self) {
        self.table.share(&other.table);
        share(&mut self.several, &other.several);
    }

    fn holders(&self, target: &Target) -> Holders {
        let one = || self.action(target).map(Holders::one).unwrap_or_default();
        self.several.get(target).copied().unwrap_or_else(one)
    }

    /// Removes nothing that is not there: that would copy what others share. `before` is the target's action until now.
    fn set(&mut self, target: Target, before: Option<Action>, holders: Holders) {
        let action = holders.action();
        if action != before {
            match action {
                Some(action) => self.table.insert(target, action),
                None => self.table.remove(&target),
            }
        }
        if holders.allow + holders.proxy > 1 {
            self.several.insert(target, holders);
        } else if self.several.contains_key(&target) {
            self.several.remove(&target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tables::claim;
    use std::collections::BTreeMap;

    #[test]
    fn of_two_claims_on_one_entry_the_proxy_holds_until_it_is_withdrawn() {
        let target = Target::any(80, Transport::Tcp);
        let one = |action| Claims::from([(target, action)]);
        let none = Claims::new();
        let mut ledger = Ledger::default();
        assert_eq!(
            ledger.replace(&none, &one(Action::Allow)),
            [(target, Some(Action::Allow))].into()
        );
        assert_eq!(
            ledger.replace(&none, &one(Action::Proxy)),
            [(target, Some(Action::Proxy))].into()
        );
        assert_eq!(ledger.replace(&none, &one(Action::Allow)), BTreeMap::new());
        assert_eq!(
            ledger.replace(&one(Action::Proxy), &none),
            [(target, Some(Action::Allow))].into()
        );
        assert_eq!(ledger.replace(&one(Action::Allow), &none), BTreeMap::new());
        assert_eq!(
            ledger.replace(&one(Action::Allow), &none),
            [(target, None)].into()
        );
        assert!(ledger.table().is_empty());

        let mut claims = one(Action::Proxy);
        claim(&mut claims, target, Action::Allow);
        assert_eq!(claims, one(Action::Proxy));
    }

    #[test]
    fn a_service_that_changes_its_mind_is_one_change() {
        let target = Target::any(80, Transport::Tcp);
        let one = |action| Claims::from([(target, action)]);
        let mut ledger = Ledger::default();
        ledger.replace(&Claims::new(), &one(Action::Allow));
        let delta = ledger.replace(&one(Action::Allow), &one(Action::Proxy));
        assert_eq!(delta, [(target, Some(Action::Proxy))].into());
        assert_eq!(
            ledger.replace(&one(Action::Proxy), &one(Action::Proxy)),
            BTreeMap::new()
        );
    }
}
