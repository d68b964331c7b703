//! The tables by id: the kernel's array of tables, and the same tables in this process's memory.
//!
//! Owns the order in which the two change: a table stays mapped here as long as the kernel has it.

use super::slots::{Memory, Slots};
use super::sys::{self, Progress};
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

/// How long is looked for tables that nobody wants.
const SEARCH: Duration = Duration::from_millis(250);
/// Threads that put tables in their places.
const THREADS: usize = 32;

/// The tables that are in the kernel, to look things up in from any thread.
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
    /// What stands where a table was.
    vacant: OwnedFd,
    vacant_id: u32,
    /// Whether the kernel takes many in one call; found out by the first.
    batches: bool,
    view: View,
}

impl Outer {
    /// Of the maps `TABLES` and `VACANT`.
    pub fn of(tables: &Map, vacant: &Map) -> anyhow::Result<Self> {
        let (Map::ArrayOfMaps(map), Map::Array(vacant)) = (tables, vacant) else {
            anyhow::bail!("the rule tables are maps of another kind");
        };
        let own = |map: &MapData| map.fd().as_fd().try_clone_to_owned();
        let vacant = own(vacant)?;
        Ok(Self {
            map: own(map)?,
            vacant_id: sys::map_id(vacant.as_fd())?,
            vacant,
            batches: true,
            view: View::default(),
        })
    }

    /// The tables that were put in place by this.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// The ids of tables that there are, as far as they are found in [`SEARCH`]: before Linux 6.8
    /// each look-up waits for the programs that run (`bpf_map_copy_value`).
    pub fn ids(&self) -> anyhow::Result<BTreeSet<TableId>> {
        let end = Instant::now() + SEARCH;
        let mut ids = BTreeSet::new();
        for id in (0..MAX_TABLES)
            .map(TableId)
            .take_while(|_| Instant::now() < end)
        {
            let inner = sys::inner_id(self.map.as_fd(), id.0).context("reading the tables")?;
            if inner.is_some_and(|inner| inner != self.vacant_id) {
                ids.insert(id);
            }
        }
        Ok(ids)
    }

    /// Puts tables in their places, each whole in one step. Returns once no program looks at
    /// what stood there (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c).
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

    /// Takes tables away.
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

    /// Returns once every program that runs has ended: the kernel waits for them where a place of an
    /// array of maps is written, be it with what stands there. Table 0 is empty by definition.
    pub fn wait_for_programs(&mut self) -> anyhow::Result<()> {
        self.write(&[TableId(0)], &[self.vacant.as_raw_fd().cast_unsigned()])
    }

    /// In several threads: before Linux 6.8 a call waits for the programs that run at each table
    /// of a batch, and those that wait at one time wait for the same.
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
            // All of them, whatever comes of the first.
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

/// Puts arrays in places; whether the kernel refused to take many in one call.
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
            sys::update_batch(map, &ids[at..], &arrays[at..])
        } else {
            sys::update_one(map, &ids[at], &arrays[at])
        };
        at += done;
        match stopped {
            None => {}
            Some(e) if batches && sys::unsupported(&e) => (batches, refused) = (false, true),
            Some(e) => return Err(e.into()),
        }
    }
    Ok(refused)
}
