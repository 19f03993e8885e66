package bgp

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	gobgp "github.com/osrg/gobgp/v3/pkg/log"
)

// bridge takes GoBGP's logs to ours. They are about connections inside this
// process: what matters of them is logged by the session in its own words.
type bridge struct{ log *slog.Logger }

func (b bridge) put(level slog.Level, msg string, fields gobgp.Fields) {
	if !b.log.Enabled(context.Background(), level) {
		return
	}
	args := make([]any, 0, 2*len(fields))
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		args = append(args, key, fields[key])
	}
	b.log.Log(context.Background(), level, "GoBGP: "+msg, args...)
}

// Panic is for GoBGP's bugs; its code does not expect to go on.
func (b bridge) Panic(msg string, fields gobgp.Fields) {
	b.put(slog.LevelError, msg, fields)
	panic("GoBGP: " + msg)
}

// Fatal is like Panic.
func (b bridge) Fatal(msg string, fields gobgp.Fields) { b.Panic(msg, fields) }

// Error is what GoBGP could not do.
func (b bridge) Error(msg string, fields gobgp.Fields) { b.put(slog.LevelWarn, msg, fields) }

// Warn is also about sessions that end as they should.
func (b bridge) Warn(msg string, fields gobgp.Fields) { b.put(slog.LevelDebug, msg, fields) }

// Info is for debugging.
func (b bridge) Info(msg string, fields gobgp.Fields) { b.put(slog.LevelDebug, msg, fields) }

// Debug is for debugging GoBGP, not Fairlead.
func (b bridge) Debug(string, gobgp.Fields) {}

// SetLevel does nothing: the level is our logger's.
func (b bridge) SetLevel(gobgp.LogLevel) {}

// GetLevel keeps GoBGP from preparing what is not logged.
func (b bridge) GetLevel() gobgp.LogLevel { return gobgp.InfoLevel }
