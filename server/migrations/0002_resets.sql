-- The seq of a channel's last reset, 0 if there was none: who was a member until then is told from who was removed.

ALTER TABLE channels ADD COLUMN reset INTEGER NOT NULL DEFAULT 0;
