-- Runs of a backfill that are still to come are many, and nobody has them in memory: they are dormant.
alter table runs add column dormant integer not null default 0;
alter table runs add column backfill text;
create index runs_awake on runs (id) where finished = 0 and dormant = 0;
create index runs_backfill on runs (backfill, id, state) where backfill is not null;

-- The schedules of workflows at work.
create table triggers (
  project  text not null,
  workflow text not null,
  -- When there is something to do; none while it is paused and when there will be no more.
  due_at   integer,
  data     text not null,
  primary key (project, workflow)
) strict, without rowid;
create index triggers_due on triggers (due_at) where due_at is not null;

create table backfills (
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
create index backfills_project on backfills (project, id);
create index backfills_unfinished on backfills (id) where finished = 0;

-- Wholes that a person holds.
create table holds (
  scope text primary key,
  data  text not null
) strict, without rowid;

-- Room for attempts: pools, the quota and the weight of a project.
create table limits (
  project text    not null,
  kind    text    not null,
  name    text    not null,
  value   integer not null,
  data    text    not null,
  primary key (project, kind, name)
) strict, without rowid;
