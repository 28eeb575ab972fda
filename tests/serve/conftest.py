"""One encoded data set for all tests of serving."""

import pytest

from tests.serve import cases


@pytest.fixture(scope='session')
def raw_folder(tmp_path_factory):
  """Where the raw files of `data` are."""
  return tmp_path_factory.mktemp('raw')


@pytest.fixture(scope='session')
def data(raw_folder):
  """(encoded data set, raw rows of test)."""
  return cases.encoded(raw_folder)
