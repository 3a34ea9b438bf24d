package certs

import (
	"context"
	"log/slog"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quietZap is a zap logger, which certmagic wants, that writes to slog two steps more quietly: what certmagic does hour by
// hour is for debugging, and what an administrator needs to know this package says itself.
func quietZap(log *slog.Logger) *zap.Logger {
	return zap.New(zapBridge{log.With("from", "certmagic")})
}

// zapBridge is a zapcore.Core over slog.
type zapBridge struct{ log *slog.Logger }

func quietLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelInfo
	case l >= zapcore.WarnLevel:
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4
}

// Enabled is zapcore.LevelEnabler's.
func (b zapBridge) Enabled(l zapcore.Level) bool {
	return b.log.Enabled(context.Background(), quietLevel(l))
}

// With is zapcore.Core's.
func (b zapBridge) With(fields []zapcore.Field) zapcore.Core {
	return zapBridge{b.log.With(attrs(fields)...)}
}

// Check is zapcore.Core's.
func (b zapBridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

// Write is zapcore.Core's.
func (b zapBridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, quietLevel(e.Level), e.Message, 0)
	r.Add(attrs(fields)...)
	if e.Time.IsZero() {
		r.Time = time.Now()
	}
	return b.log.Handler().Handle(context.Background(), r)
}

// Sync is zapcore.Core's.
func (b zapBridge) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	var all []any
	for k, v := range enc.Fields {
		all = append(all, slog.Any(k, v))
	}
	return all
}
