-- Which bundles runs still name. A task names another than its run only after a retry with other code, which is a later
-- generation; so the second index costs nothing on the way of every other task.
create index runs_bundle on runs (bundle);
create index tasks_retried_bundle on tasks (bundle) where generation > 1;
