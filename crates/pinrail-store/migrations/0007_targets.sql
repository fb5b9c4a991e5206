-- Targets: what is deployed where, and the tables, runs and schedules of each apart. Without targets the name is empty.
create table active (
  project     text    not null,
  target      text    not null,
  workflow    text    not null,
  version     text    not null,
  bundle      text    not null,
  deployed_at integer not null,
  primary key (project, target, workflow)
) strict, without rowid;
insert into active (project, target, workflow, version, bundle, deployed_at)
  select project, '', workflow, version, bundle, coalesce(deployed_at, created_at) from versions where active = 1;
drop index versions_active;
alter table versions drop column active;
alter table versions drop column deployed_at;

-- As they were last deployed to.
create table targets (
  project text not null,
  name    text not null,
  -- What stands before its namespaces; empty for none.
  prefix  text not null,
  data    text not null,
  primary key (project, name)
) strict, without rowid;

alter table runs add column target text not null default '';

create table triggers_by_target (
  project  text not null,
  target   text not null,
  workflow text not null,
  -- When there is something to do; none while it is paused and when there will be no more.
  due_at   integer,
  data     text not null,
  primary key (project, target, workflow)
) strict, without rowid;
insert into triggers_by_target (project, target, workflow, due_at, data)
  select project, '', workflow, due_at, data from triggers;
drop table triggers;
alter table triggers_by_target rename to triggers;
create index triggers_due on triggers (due_at) where due_at is not null;
