"""The world of the seeded simulation: disks, users, watchers, without threads or a clock."""
