//! Cutting a failing plan down: chunks of it are left out as long as the same promise is still broken (ddmin).

use super::{Plan, pairs};

impl Plan {
    /// The smallest plan found by leaving things out of this one for which `fails` still says yes.
    pub(crate) fn shrunk(&self, mut fails: impl FnMut(&Self) -> bool) -> Self {
        let mut best = self.clone();
        loop {
            let before = best.weight();
            best = halves(best, |plan| &mut plan.faults, &mut fails);
            best = halves(best, |plan| &mut plan.asks, &mut fails);
            best = halves(best, |plan| &mut plan.sparse, &mut fails);
            best = best.without_last_peers(&mut fails);
            best = best.plainer(&mut fails);
            if best.weight() == before {
                return best;
            }
        }
    }

    fn weight(&self) -> usize {
        self.faults.len() + self.asks.len() + self.sparse.len() + self.peers.len()
    }

    /// Peers that nothing is said about go, from the last on.
    fn without_last_peers(mut self, fails: &mut impl FnMut(&Self) -> bool) -> Self {
        while self.peers.len() > 2 {
            let last = self.peers.len() - 1;
            let mut plan = self.clone();
            plan.latency_us = pairs(last + 1)
                .zip(&self.latency_us)
                .filter(|((a, b), _)| *a != last && *b != last)
                .map(|(_, latency)| *latency)
                .collect();
            plan.peers.pop();
            plan.sparse.retain(|(a, b)| *a != last && *b != last);
            plan.faults.retain(|(_, fault)| !fault.peers().contains(&last));
            plan.asks.retain(|(_, ask)| ask.origin != last && ask.target != Some(last));
            for peer in &mut plan.peers {
                peer.named_like = peer.named_like.filter(|like| *like != last);
            }
            if !fails(&plan) {
                break;
            }
            self = plan;
        }
        self
    }

    /// Oddities of peers and calls that do not matter go.
    fn plainer(mut self, fails: &mut impl FnMut(&Self) -> bool) -> Self {
        let mut attempt = |plan: &mut Self, change: &dyn Fn(&mut Self)| {
            let mut changed = plan.clone();
            change(&mut changed);
            if changed != *plan && fails(&changed) {
                *plan = changed;
            }
        };
        for peer in 0..self.peers.len() {
            attempt(&mut self, &|plan| plan.peers[peer].skew_ms = 0);
            attempt(&mut self, &|plan| plan.peers[peer].drift_ppm = 0);
            attempt(&mut self, &|plan| plan.peers[peer].lag_us = 0);
            attempt(&mut self, &|plan| plan.peers[peer].join_at = 0);
            attempt(&mut self, &|plan| plan.peers[peer].named_like = None);
        }
        for ask in 0..self.asks.len() {
            attempt(&mut self, &|plan| plan.asks[ask].1.blob = false);
            attempt(&mut self, &|plan| plan.asks[ask].1.cancel_after_us = None);
            attempt(&mut self, &|plan| plan.asks[ask].1.key = None);
        }
        self
    }
}

/// Leaves out ever smaller chunks of one list.
fn halves<T: Clone>(
    mut plan: Plan,
    list: impl Fn(&mut Plan) -> &mut Vec<T>,
    fails: &mut impl FnMut(&Plan) -> bool,
) -> Plan {
    let mut chunk = list(&mut plan).len();
    while chunk > 0 {
        let mut at = 0;
        while at < list(&mut plan).len() {
            let mut less = plan.clone();
            let items = list(&mut less);
            let end = (at + chunk).min(items.len());
            items.drain(at..end);
            if fails(&less) {
                plan = less;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, Profile};
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let mut plan = Plan::draw(7, Profile::Five);
        plan.faults.push((5, Fault::Leave { peer: 1 }));
        let leaves = |plan: &Plan| plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::Leave { peer: 1 }));
        let shrunk = plan.shrunk(|plan| leaves(plan) && plan.asks.len() > 1);
        assert!(leaves(&shrunk));
        assert_eq!((shrunk.faults.len(), shrunk.asks.len()), (1, 2));
        let shrunk = plan.shrunk(leaves);
        assert_eq!((shrunk.faults.len(), shrunk.asks.len(), shrunk.peers.len()), (1, 0, 2));
    }
}
