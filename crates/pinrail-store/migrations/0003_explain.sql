-- What explanations compare. The files under `[files]` as a run found them:
create table inputs (
  run         text    not null,
  path        text    not null,
  size        integer not null,
  modified_at integer not null,
  primary key (run, path)
) strict, without rowid;

-- The tables that a failed attempt had written, when its overlays were discarded:
create table unpublished (
  attempt   text not null,
  namespace text not null,
  name      text not null,
  primary key (attempt, namespace, name)
) strict, without rowid;

-- When a table was published; null for what no attempt did.
alter table table_history add column at integer;
