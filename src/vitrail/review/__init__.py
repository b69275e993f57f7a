"""What raters say of tiles and of explanations: queues, judgements, agreement."""
