-- Where a project's notices go, as it was last deployed.
create table channels (
  project text not null,
  name    text not null,
  data    text not null,
  primary key (project, name)
) strict, without rowid;

-- The outbox: a row for each notice and channel, written with what it tells of. The key says what it tells of, so that
-- nothing is told twice.
create table notices (
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
create index notices_pending on notices (project, channel, due_at) where state = 'pending';
create index notices_project on notices (project, id);
create index notices_state on notices (project, state, id);

-- Which run of a workflow ended last, for notices of a recovery; and which of them succeeded, for what is usual.
create index runs_ended on runs (project, workflow, ended_at, state) where finished = 1;
