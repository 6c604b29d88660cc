package main

import (
	"os"
	"strings"
	"testing"

	"basin/internal/object/s3/s3test"
	"basin/internal/repo"
)

// TestRepositoryInBucket makes a repository in a bucket, and lists what is put into it.
func TestRepositoryInBucket(t *testing.T) {
	clearEnvironment(t)
	server := s3test.Start(t)
	t.Setenv("BASIN_CONFIG", os.DevNull)
	t.Setenv("BASIN_S3_ENDPOINT", server.Endpoint)
	t.Setenv("BASIN_S3_PATH_STYLE", "true")
	location := "s3://" + server.Bucket(t) + "/below/it"
	if _, err := callBasin(t, "init", location); err != nil {
		t.Fatal(err)
	}
	if _, err := callBasin(t, "init", location); err == nil {
		t.Error("it was made twice")
	}
	o := repositoryOptions{Location: location}
	r, err := openRepository(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	taken := takeBackup(t, r, "shop", 7, 0, repo.SinkOptions{})
	_, cluster, err := openCluster(t.Context(), o)
	if err != nil || cluster.Name() != (repo.ClusterName{Name: "shop", SystemID: 7}) {
		t.Fatalf("got %v", err)
	}
	got, err := callBasin(t, "list", "--repository="+location)
	if err != nil || !strings.Contains(got, taken.ID) {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := callBasin(t, "list", "--repository="+location+"/other"); err == nil || !strings.Contains(err.Error(), "there is no repository") {
		t.Errorf("where none is: %v", err)
	}
}
