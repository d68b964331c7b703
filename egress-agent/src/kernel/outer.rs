//! The tables by id: the kernel's array of tables, and the same tables in this process's memory.
//!
//! Owns the order in which these two change: a table stays mapped as long as the kernel has it.

use super::grace::Grace;
use super::slots::{Memory, Slots};
use super::sys::map::{self, Progress};
use anyhow::Context as _;
use aya::maps::{Map, MapData};
use egress_ebpf::abi::MAX_TABLES;
use egress_ebpf::decide::{self, Destination};
use egress_ebpf::ids::TableId;
use egress_ebpf::table;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long to search for unused tables of a previous agent.
const SEARCH: Duration = Duration::from_millis(250);
/// Threads that write tables to the array.
const THREADS: usize = 32;

/// The tables in the kernel, for lookups from any thread.
#[derive(Clone, Debug, Default)]
pub struct View(Arc<RwLock<BTreeMap<TableId, Arc<Memory>>>>);

impl View {
    fn change(&self, table: TableId, memory: Option<Arc<Memory>>) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match memory {
            Some(memory) => tables.insert(table, memory),
            None => tables.remove(&table),
        };
    }
}

impl decide::Tables for View {
    fn find(&self, id: TableId, shortest: u32, to: &Destination) -> Option<u32> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let memory = Arc::clone(tables.get(&id)?);
        drop(tables);
        table::find(memory.values(), shortest, to)
    }
}

/// The kernel's array of tables.
#[derive(Debug)]
pub struct Outer {
    map: OwnedFd,
    /// The empty table, which replaces a removed one.
    vacant: OwnedFd,
    vacant_id: u32,
    /// Whether the kernel takes several entries in one call; the first call finds out.
    batches: bool,
    view: View,
}

impl Outer {
    /// Uses the maps `TABLES` and `VACANT`.
    pub fn of(tables: &Map, vacant: &Map) -> anyhow::Result<Self> {
        let (Map::ArrayOfMaps(map), Map::Array(vacant)) = (tables, vacant) else {
            anyhow::bail!("the rule tables are maps of another kind");
        };
        let own = |map: &MapData| map.fd().as_fd().try_clone_to_owned();
        let vacant = own(vacant)?;
        Ok(Self {
            map: own(map)?,
            vacant_id: map::id(vacant.as_fd())?,
            vacant,
            batches: true,
            view: View::default(),
        })
    }

    /// The tables that this process wrote.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// The ids of the existing tables that are found within [`SEARCH`]. Before Linux 6.8 each lookup waits
    /// for running programs (`bpf_map_copy_value`).
    pub fn ids(&self) -> anyhow::Result<BTreeSet<TableId>> {
        let end = Instant::now() + SEARCH;
        let mut ids = BTreeSet::new();
        for id in (0..MAX_TABLES)
            .map(TableId)
            .take_while(|_| Instant::now() < end)
        {
            let inner = map::inner_id(self.map.as_fd(), id.0).context("reading the tables")?;
            if inner.is_some_and(|inner| inner != self.vacant_id) {
                ids.insert(id);
            }
        }
        Ok(ids)
    }

    /// Writes tables to the array, each in one step. Returns when no program uses the former tables any
    /// more (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c).
    pub fn put(&mut self, tables: &[(TableId, Slots, OwnedFd)]) -> anyhow::Result<()> {
        let ids: Vec<TableId> = tables.iter().map(|(id, ..)| *id).collect();
        let arrays: Vec<u32> = tables
            .iter()
            .map(|(.., array)| array.as_raw_fd().cast_unsigned())
            .collect();
        self.write(&ids, &arrays)?;
        for (id, slots, _) in tables {
            self.view.change(*id, Some(Arc::clone(slots.memory())));
        }
        Ok(())
    }

    /// Removes tables.
    pub fn vacate(&mut self, ids: &[TableId]) -> anyhow::Result<()> {
        self.write(
            ids,
            &vec![self.vacant.as_raw_fd().cast_unsigned(); ids.len()],
        )?;
        for id in ids {
            self.view.change(*id, None);
        }
        Ok(())
    }

    /// For waits until running programs have ended.
    pub fn grace(&self) -> anyhow::Result<Grace> {
        let (map, vacant) = (self.map.try_clone()?, self.vacant.try_clone()?);
        Ok(Grace::of(map, vacant))
    }

    /// Writes in several threads: before Linux 6.8 a call waits for running programs once for each table of
    /// a batch, and threads can wait at the same time.
    fn write(&mut self, ids: &[TableId], arrays: &[u32]) -> anyhow::Result<()> {
        let each = ids.len().div_ceil(THREADS).max(1);
        let (map, batches) = (self.map.as_fd(), self.batches);
        let refused = thread::scope(|scope| {
            let parts = ids.chunks(each).zip(arrays.chunks(each));
            let threads: Vec<_> = parts
                .map(|(ids, arrays)| {
                    thread::Builder::new()
                        .spawn_scoped(scope, move || write(map, ids, arrays, batches))
                })
                .collect();
            let ended = threads.into_iter().map(|thread| {
                thread?
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread that puts tables panicked"))?
            });
            // Join all of them, also if the first failed.
            let ended: Vec<_> = ended.collect();
            let mut refused = false;
            for ended in ended {
                refused |= ended.context("putting a table in its place")?;
            }
            anyhow::Ok(refused)
        })?;
        self.batches &= !refused;
        Ok(())
    }
}

/// Writes arrays. Returns whether the kernel refused to take several entries in one call.
fn write(
    map: BorrowedFd<'_>,
    ids: &[TableId],
    arrays: &[u32],
    mut batches: bool,
) -> anyhow::Result<bool> {
    let mut refused = false;
    let mut at = 0;
    while at < ids.len() {
        let Progress { done, stopped } = if batches {
            map::update_batch(map, &ids[at..], &arrays[at..])
        } else {
            map::update_one(map, &ids[at], &arrays[at])
        };
        at += done;
        match stopped {
            None => {}
            Some(e) if batches && map::unsupported(&e) => (batches, refused) = (false, true),
            Some(e) => return Err(e.into()),
        }
    }
    Ok(refused)
}
