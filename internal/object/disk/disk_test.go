package disk

import (
	"testing"

	"basin/internal/object"
	"basin/internal/object/objecttest"
)

func TestStore(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) object.Store { return open(t, t.TempDir()) })
}
