package cluster

import (
	"basin/internal/feed"
	"basin/internal/server"
	"basin/internal/wal"
)

// Log is the cluster's log.
func (c *Cluster) Log() server.Log { return clusterLog{c.feed} }

// clusterLog is a feed as package server reads it.
type clusterLog struct{ *feed.Feed }

// Reader returns a reader of one timeline.
func (l clusterLog) Reader(t wal.Timeline) server.LogReader { return l.Feed.Reader(t) }
