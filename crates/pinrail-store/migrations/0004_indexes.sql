-- Lists of runs are walked newest first: these hold all that such a list is filtered by, so that no row is read that it
-- does not show. The last two characters of an id are the least by which people name a run.
create index runs_state on runs (state, id, project, workflow);
create index runs_workflow on runs (workflow, id, project);
create index runs_ending on runs (substr(id, -2), id);
create index queries_project on queries (project, id);
create index idempotency_at on idempotency (at);

-- How far the catalog of a project was at a time; by it the history of pointers is forgotten by age.
create table catalog_marks (
  project text    not null,
  at      integer not null,
  seq     integer not null,
  primary key (project, at)
) strict, without rowid;
