SELECT log_position, synced FROM keylatch.synced($1)
