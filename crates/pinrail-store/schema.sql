CREATE TABLE active (
  project     text    not null,
  target      text    not null,
  workflow    text    not null,
  version     text    not null,
  bundle      text    not null,
  deployed_at integer not null,
  primary key (project, target, workflow)
) strict, without rowid;

CREATE TABLE attempts (
  id         text primary key,
  run        text    not null,
  project    text    not null,
  job        text    not null,
  instance   text    not null,
  number     integer not null,
  generation integer not null,
  epoch      integer not null,
  executor   text    not null,
  state      text    not null,
  fault      text,
  started_at integer not null,
  ended_at   integer,
  data       text    not null
) strict, without rowid;

CREATE TABLE backfills (
  id         text primary key,
  project    text    not null,
  workflow   text    not null,
  state      text    not null,
  finished   integer not null,
  created_at integer not null,
  -- What was asked for, and how far it is: the latter is written often, so it is small.
  data       text    not null,
  progress   text    not null
) strict, without rowid;

CREATE TABLE bundles (
  project    text    not null,
  sha        text    not null,
  manifest   text    not null,
  created_at integer not null,
  primary key (project, sha)
) strict, without rowid;

CREATE TABLE catalog_marks (
  project text    not null,
  at      integer not null,
  seq     integer not null,
  primary key (project, at)
) strict, without rowid;

CREATE TABLE catalogs (
  project text primary key,
  seq     integer not null
) strict, without rowid;

CREATE TABLE channels (
  project text not null,
  name    text not null,
  data    text not null,
  primary key (project, name)
) strict, without rowid;

CREATE TABLE commands (
  seq   integer primary key autoincrement,
  id    text    not null unique,
  body  text    not null,
  reply text
) strict;

CREATE TABLE counters (
  attempt text not null,
  grp     text not null,
  name    text not null,
  run     text not null,
  value   real not null,
  unit    text,
  primary key (attempt, grp, name)
) strict, without rowid;

CREATE TABLE events (
  run  text    not null,
  seq  integer not null,
  at   integer not null,
  kind text    not null,
  job  text,
  data text    not null,
  primary key (run, seq)
) strict, without rowid;

CREATE TABLE files (
  run     text    not null,
  job     text    not null,
  name    text    not null,
  attempt text    not null,
  sha     text    not null,
  size    integer not null,
  primary key (run, job, name)
) strict, without rowid;

CREATE TABLE holds (
  scope text primary key,
  data  text not null
) strict, without rowid;

CREATE TABLE idempotency (
  principal text    not null,
  key       text    not null,
  request   text    not null,
  status    integer not null,
  body      text    not null,
  at        integer not null,
  primary key (principal, key)
) strict, without rowid;

CREATE TABLE inputs (
  run         text    not null,
  path        text    not null,
  size        integer not null,
  modified_at integer not null,
  primary key (run, path)
) strict, without rowid;

CREATE TABLE limits (
  project text    not null,
  kind    text    not null,
  name    text    not null,
  value   integer not null,
  data    text    not null,
  primary key (project, kind, name)
) strict, without rowid;

CREATE TABLE logs (
  attempt text    not null,
  first   integer not null,
  last    integer not null,
  bytes   integer not null,
  primary key (attempt, first)
) strict, without rowid;

CREATE TABLE meta (
  key   text primary key,
  value text not null
) strict, without rowid;

CREATE TABLE notices (
  id       text primary key,
  key      text    not null unique,
  project  text    not null,
  workflow text    not null,
  run      text    not null,
  job      text,
  event    text    not null,
  channel  text    not null,
  at       integer not null,
  state    text    not null,
  tries    integer not null,
  due_at   integer not null,
  ended_at integer,
  answer   text,
  data     text    not null
) strict, without rowid;

CREATE TABLE overlays (
  attempt   text not null,
  namespace text not null,
  name      text not null,
  body      text not null,
  primary key (attempt, namespace, name)
) strict, without rowid;

CREATE TABLE phases (
  attempt    text    not null,
  seq        integer not null,
  name       text    not null,
  state      text    not null,
  started_at integer not null,
  ended_at   integer,
  primary key (attempt, seq)
) strict, without rowid;

CREATE TABLE projects (
  name       text primary key,
  folder     text,
  created_at integer not null
) strict, without rowid;

CREATE TABLE publications (
  run         text    not null,
  job         text    not null,
  instance    text    not null,
  generation  integer not null,
  attempt     text    not null,
  project     text    not null,
  catalog_seq integer not null,
  at          integer not null,
  primary key (run, job, instance, generation)
) strict, without rowid;

CREATE TABLE queries (
  id         text primary key,
  project    text    not null,
  state      text    not null,
  created_at integer not null,
  data       text    not null
) strict, without rowid;

CREATE TABLE runs (
  id             text primary key,
  project        text    not null,
  workflow       text    not null,
  class          text    not null,
  state          text    not null,
  finished       integer not null,
  interval_start integer not null,
  interval_end   integer not null,
  created_at     integer not null,
  started_at     integer,
  ended_at       integer,
  bundle         text    not null,
  version        text    not null,
  unique_key     text,
  data           text    not null
, dormant integer not null default 0, backfill text, target text not null default '') strict, without rowid;

CREATE TABLE secrets (
  project text    not null,
  name    text    not null,
  sealed  blob    not null,
  set_at  integer not null,
  set_by  text    not null,
  primary key (project, name)
) strict, without rowid;

CREATE TABLE table_history (
  project   text    not null,
  namespace text    not null,
  name      text    not null,
  from_seq  integer not null,
  id        text    not null,
  location  text, at integer,
  primary key (project, namespace, name, from_seq)
) strict, without rowid;

CREATE TABLE tables (
  project   text not null,
  namespace text not null,
  name      text not null,
  id        text not null,
  location  text not null,
  primary key (project, namespace, name)
) strict, without rowid;

CREATE TABLE targets (
  project text not null,
  name    text not null,
  -- What stands before its namespaces; empty for none.
  prefix  text not null,
  data    text not null,
  primary key (project, name)
) strict, without rowid;

CREATE TABLE tasks (
  run        text    not null,
  job        text    not null,
  instance   text    not null,
  ix         integer not null,
  position   text    not null,
  state      text    not null,
  ending     text,
  generation integer not null,
  epoch      integer not null,
  attempts   integer not null,
  bundle     text    not null,
  version    text    not null,
  data       text    not null,
  primary key (run, job, instance)
) strict, without rowid;

CREATE TABLE tokens (
  id         text primary key,
  name       text    not null,
  hash       text    not null unique,
  project    text,
  role       text    not null,
  created_at integer not null,
  expires_at integer,
  revoked_at integer
) strict, without rowid;

CREATE TABLE transitions (
  id    text primary key,
  reply text not null
) strict, without rowid;

CREATE TABLE "triggers" (
  project  text not null,
  target   text not null,
  workflow text not null,
  -- When there is something to do; none while it is paused and when there will be no more.
  due_at   integer,
  data     text not null,
  primary key (project, target, workflow)
) strict, without rowid;

CREATE TABLE unpublished (
  attempt   text not null,
  namespace text not null,
  name      text not null,
  primary key (attempt, namespace, name)
) strict, without rowid;

CREATE TABLE versions (
  project     text    not null,
  workflow    text    not null,
  version     text    not null,
  bundle      text    not null,
  document    text    not null,
  created_at  integer not null,
  primary key (project, version, bundle)
) strict, without rowid;

CREATE INDEX attempts_run on attempts (run, job, instance, number);

CREATE INDEX backfills_project on backfills (project, id);

CREATE INDEX backfills_unfinished on backfills (id) where finished = 0;

CREATE INDEX commands_open on commands (seq) where reply is null;

CREATE INDEX counters_run on counters (run);

CREATE INDEX idempotency_at on idempotency (at);

CREATE INDEX notices_pending on notices (project, channel, due_at) where state = 'pending';

CREATE INDEX notices_project on notices (project, id);

CREATE INDEX notices_state on notices (project, state, id);

CREATE INDEX queries_project on queries (project, id);

CREATE INDEX runs_awake on runs (id) where finished = 0 and dormant = 0;

CREATE INDEX runs_backfill on runs (backfill, id, state) where backfill is not null;

CREATE INDEX runs_bundle on runs (bundle);

CREATE INDEX runs_ended on runs (project, workflow, ended_at, state) where finished = 1;

CREATE INDEX runs_ending on runs (substr(id, -2), id);

CREATE INDEX runs_interval on runs (project, workflow, interval_start, id);

CREATE INDEX runs_project on runs (project, id);

CREATE INDEX runs_state on runs (state, id, project, workflow);

CREATE INDEX runs_unfinished on runs (id) where finished = 0;

CREATE UNIQUE INDEX runs_unique_key on runs (unique_key) where unique_key is not null;

CREATE INDEX runs_workflow on runs (workflow, id, project);

CREATE INDEX tasks_retried_bundle on tasks (bundle) where generation > 1;

CREATE INDEX triggers_due on triggers (due_at) where due_at is not null;
