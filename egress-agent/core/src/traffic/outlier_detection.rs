//! `trafficPolicy.outlierDetection`: which endpoints of a cluster are left alone, and until when.
//!
//! Pure: the time is a parameter, as the span since some fixed moment. Sources: Envoy
//! `source/common/upstream/outlier_detection_impl.cc`, Istio `pilot/pkg/networking/core/cluster_traffic_policy.go`.

use crate::istio::destination_rule::OutlierDetection as Rule;
use crate::istio::duration::TimeSpan;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Envoy's `max_ejection_time`.
const LONGEST: Duration = Duration::from_mins(5);

/// The settings of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutlierDetection {
    /// 5xx in a row; `None` is off.
    pub server_errors: Option<u32>,
    /// 502, 503 and 504 in a row; `None` is off.
    pub gateway_errors: Option<u32>,
    /// Lost connections in a row, if they are counted apart.
    pub local_failures: Option<u32>,
    /// Lost connections are counted apart. Otherwise they count as 503, and time limits as 504.
    pub split: bool,
    /// Time between two checks whether an endpoint may come back.
    pub interval: Duration,
    /// Time out of use, times the number of ejections.
    pub base: Duration,
    /// The share of endpoints that may be out of use, in percent. Another one is ejected only if the share holds with it:
    /// with the default of 10, a cluster of fewer than 10 endpoints loses none.
    pub most_ejected: u32,
    /// With a smaller share of endpoints in use, in percent, all are used.
    pub least_healthy: u32,
    /// Status codes that count as errors besides 5xx.
    pub codes: Vec<u16>,
}

impl From<&Rule> for OutlierDetection {
    fn from(rule: &Rule) -> Self {
        let some = |number: u32| Some(number).filter(|number| *number > 0);
        let share = |number: i32| u32::try_from(number).unwrap_or(0).min(100);
        let codes = rule.outlier_detection_http_error_codes.iter();
        Self {
            server_errors: some(rule.consecutive_5xx_errors.unwrap_or(5)),
            gateway_errors: rule.consecutive_gateway_errors.and_then(some),
            local_failures: some(rule.consecutive_local_origin_failures.unwrap_or(5)),
            split: rule.split_external_local_origin_errors,
            interval: rule
                .interval
                .map_or(Duration::from_secs(10), TimeSpan::duration),
            base: rule
                .base_ejection_time
                .map_or(Duration::from_secs(30), TimeSpan::duration),
            most_ejected: match share(rule.max_ejection_percent) {
                0 => 10,
                share => share,
            },
            least_healthy: share(rule.min_health_percent),
            codes: codes.filter_map(|code| u16::try_from(*code).ok()).collect(),
        }
    }
}

/// How an attempt at an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// A TCP connection was made.
    Connected,
    /// No connection, or it was lost before a response.
    Lost,
    /// A time limit passed.
    TimedOut,
}

/// The endpoints of a cluster that had errors.
#[derive(Clone, Debug, Default)]
pub struct Outliers {
    endpoints: BTreeMap<SocketAddr, Endpoint>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Endpoint {
    server_errors: u32,
    gateway_errors: u32,
    local_failures: u32,
    /// When it was ejected, if it is.
    ejected: Option<Duration>,
    /// The multiple of the base time.
    times: u32,
    /// Checks that were made, since the beginning.
    checked: u128,
}

impl Endpoint {
    /// Makes the checks that are due. A healthy endpoint's multiple sinks by one with each.
    fn check(&mut self, now: Duration, policy: &OutlierDetection) {
        let interval = policy.interval.as_nanos().max(1);
        let due = now.as_nanos() / interval;
        if let Some(since) = self.ejected {
            let longest = LONGEST.max(policy.base);
            let back = since + policy.base.saturating_mul(self.times).min(longest);
            // The first check that finds the time over.
            let check = back.as_nanos().div_ceil(interval);
            if check > due {
                return;
            }
            self.ejected = None;
            (self.server_errors, self.gateway_errors, self.local_failures) = (0, 0, 0);
            self.checked = check;
        }
        let passed = u32::try_from(due.saturating_sub(self.checked)).unwrap_or(u32::MAX);
        self.times = self.times.saturating_sub(passed);
        self.checked = due;
    }

    /// Whether there is nothing to remember.
    fn is_clean(&self) -> bool {
        let errors = self.server_errors | self.gateway_errors | self.local_failures;
        errors == 0 && self.ejected.is_none() && self.times == 0
    }

    /// Counts an outcome; true if a limit is reached.
    fn count(&mut self, outcome: Outcome, policy: &OutlierDetection) -> bool {
        let status = match outcome {
            Outcome::Status(status) => {
                self.local_failures = 0;
                status
            }
            Outcome::Connected if policy.split => {
                self.local_failures = 0;
                return false;
            }
            Outcome::Connected => 200,
            Outcome::Lost | Outcome::TimedOut if policy.split => {
                self.local_failures += 1;
                return reached(policy.local_failures, &mut self.local_failures);
            }
            Outcome::Lost => 503,
            Outcome::TimedOut => 504,
        };
        if !(500..600).contains(&status) && !policy.codes.contains(&status) {
            (self.server_errors, self.gateway_errors) = (0, 0);
            return false;
        }
        let mut out = false;
        if (502..=504).contains(&status) {
            self.gateway_errors += 1;
            out |= reached(policy.gateway_errors, &mut self.gateway_errors);
        } else {
            self.gateway_errors = 0;
        }
        self.server_errors += 1;
        out | reached(policy.server_errors, &mut self.server_errors)
    }
}

/// Whether a count has reached its limit. It then begins again.
fn reached(limit: Option<u32>, count: &mut u32) -> bool {
    let reached = limit.is_some_and(|limit| *count >= limit);
    if reached {
        *count = 0;
    }
    reached
}

impl Outliers {
    /// Notes how an attempt ended. Returns whether the endpoint is ejected for it. `endpoints`: those of the cluster, or
    /// none if it has no list.
    pub fn note(
        &mut self,
        address: SocketAddr,
        outcome: Outcome,
        endpoints: &[SocketAddr],
        now: Duration,
        policy: &OutlierDetection,
    ) -> bool {
        let fine = match outcome {
            Outcome::Status(status) => status < 500 && !policy.codes.contains(&status),
            Outcome::Connected => true,
            Outcome::Lost | Outcome::TimedOut => false,
        };
        if fine && !self.endpoints.contains_key(&address) {
            return false;
        }
        // Endpoints of former DNS answers.
        if self.endpoints.len() > 2 * endpoints.len() + 16 {
            self.endpoints
                .retain(|_, endpoint| endpoint.ejected.is_some());
        }
        let is_present = |at: &SocketAddr| endpoints.is_empty() || endpoints.contains(at);
        let ejected = self.ejected(now, policy, is_present);
        let endpoint = self.endpoints.entry(address).or_insert_with(|| Endpoint {
            checked: now.as_nanos() / policy.interval.as_nanos().max(1),
            ..Endpoint::default()
        });
        // Istio does not set Envoy's `always_eject_one_host`.
        let may = (ejected + 1) * 100 <= policy.most_ejected as usize * endpoints.len().max(1);
        let ejects = endpoint.count(outcome, policy) && endpoint.ejected.is_none() && may;
        if ejects {
            endpoint.ejected = Some(now);
            endpoint.times = endpoint.times.saturating_add(1);
        }
        if endpoint.is_clean() {
            self.endpoints.remove(&address);
        }
        ejects
    }

    /// How many of these are ejected.
    fn ejected(
        &mut self,
        now: Duration,
        policy: &OutlierDetection,
        counts: impl Fn(&SocketAddr) -> bool,
    ) -> usize {
        for endpoint in self.endpoints.values_mut() {
            endpoint.check(now, policy);
        }
        let all = self.endpoints.iter();
        all.filter(|(address, endpoint)| endpoint.ejected.is_some() && counts(address))
            .count()
    }

    /// Leaves the endpoints that may be used. All of them if too few would be left.
    pub fn filter(
        &mut self,
        endpoints: &mut Vec<SocketAddr>,
        now: Duration,
        policy: &OutlierDetection,
    ) {
        if self.endpoints.is_empty() || self.ejected(now, policy, |_| true) == 0 {
            return;
        }
        let is_used = |address: &SocketAddr| {
            let endpoint = self.endpoints.get(address);
            endpoint.is_none_or(|endpoint| endpoint.ejected.is_none())
        };
        let used = endpoints.iter().filter(|address| is_used(address)).count();
        if used * 100 >= policy.least_healthy as usize * endpoints.len() {
            endpoints.retain(is_used);
        }
    }
}
